"""Features of unchanging pictures are computed once, and what is read is what was written."""

import errno
import os
import time

import pytest
import torch
from conftest import small, train

from artdiff import cache
from artdiff.losses import PerceptualLoss
from artdiff.losses.features import IN_USE, KeptFeatures, OnDevice, Unchanging, make_room, taken

LIKE = torch.empty(4, 4, 8)


def _features(*rows, dtype=torch.float32):
    """(B,C,H,W) with channels last, of what pictures in these rows would have."""
    found = [torch.randn(4, 4, 8, generator=torch.Generator().manual_seed(row)) for row in rows]
    return torch.stack(found).to(dtype).permute(0, 3, 1, 2)


class Computer:
    """Computes the features of rows, and remembers which."""

    def __init__(self, rows, dtype=torch.float32):
        self.rows, self.dtype, self.asked = rows, dtype, []

    def __call__(self, places):
        self.asked += [self.rows[place] for place in places]
        return _features(*(self.rows[place] for place in places), dtype=self.dtype)


def _ask(kept, *rows, dtype=torch.float32):
    """What `kept` answers for rows → those that it had computed."""
    computer = Computer(rows, dtype)
    answer = kept(torch.tensor(rows), computer)
    assert torch.equal(answer, _features(*rows, dtype=dtype))
    assert answer.is_contiguous(memory_format=torch.channels_last)
    return computer.asked


def _kept(folder, recipe="VGG16", gigabytes=1.0, rows=100):
    return KeptFeatures(Unchanging("some", rows, folder), recipe, gigabytes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_computed_is_read_also_by_the_next_run(tmp_path, dtype):
    kept = _kept(tmp_path)
    assert _ask(kept, 5, 0, 7, dtype=dtype) == [5, 0, 7]
    assert _ask(kept, 7, 5, dtype=dtype) == []
    assert _ask(kept, 9, 0, 8, dtype=dtype) == [9, 8]
    again = _kept(tmp_path)
    _ask(again, 1, dtype=dtype)  # the first answer of a run says what features are like
    assert _ask(again, 0, 5, 7, 8, 9, 3, dtype=dtype) == [3]


def test_other_weights_pictures_and_precisions_have_features_of_their_own(tmp_path):
    _ask(_kept(tmp_path), 1, 2)
    for other, dtype in (
        (_kept(tmp_path, recipe="VGG19"), torch.float32),
        (KeptFeatures(Unchanging("others", 100, tmp_path), "VGG16", 1.0), torch.float32),
        (_kept(tmp_path), torch.bfloat16),
    ):
        _ask(other, 1, dtype=dtype)
        assert _ask(other, 2, dtype=dtype) == [2]


@pytest.mark.parametrize("damage", ["other bytes", "cut off", "zeros"])
def test_what_a_checksum_does_not_bear_out_is_computed_again(tmp_path, damage):
    _ask(_kept(tmp_path), 0, 1, 2)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    size = len(content) // 3
    if damage == "other bytes":
        content[-9] ^= 1
    content[2 * size :] = {"cut off": content[2 * size : -9], "zeros": bytes(size)}.get(damage, content[2 * size :])
    path.write_bytes(content)
    again = _kept(tmp_path)
    _ask(again, 9)
    assert _ask(again, 0, 1, 2) == [2]
    assert _ask(again, 2) == []


def test_no_more_is_kept_than_is_allowed(tmp_path):
    kept = _kept(tmp_path, gigabytes=3 * (LIKE.nbytes + 4) / 1e9)
    _ask(kept, 0, 1, 2, 3, 4)
    assert _ask(kept, 4, 2, 0, 3) == [4, 3]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 * (LIKE.nbytes + 4)


def test_what_was_unused_for_longest_makes_room(tmp_path):
    files = [tmp_path / f"{name}.features" for name in "abcd"]
    for age, path in enumerate(reversed(files)):
        path.write_bytes(bytes(8192))
        os.utime(path, (time.time() - age * IN_USE * 1.5,) * 2)  # the last one is in use
    assert make_room(tmp_path / "new.features", 2 * 8192) == 2 * 8192
    assert sorted(tmp_path.iterdir()) == files[2:]
    assert make_room(tmp_path / "new.features", 0) == 8192
    assert list(tmp_path.iterdir()) == files[3:]


def test_what_another_training_uses_leaves_less_room(tmp_path):
    _ask(_kept(tmp_path, recipe="another", gigabytes=1.0), *range(100))
    (other,) = tmp_path.iterdir()
    kept = _kept(tmp_path, gigabytes=(taken(other) + 3 * (LIKE.nbytes + 4)) / 1e9)
    _ask(kept, 0, 1, 2, 3)
    assert _ask(kept, 0, 1, 2, 3) == [3]


@pytest.mark.parametrize("short", [False, True], ids=["refused", "cut short"])
def test_a_full_disk_ends_the_keeping_and_not_the_run(tmp_path, caplog, short):
    kept = _kept(tmp_path)
    _ask(kept, 0)

    class Full:
        """A disk that refuses what no longer fits, or writes as much of it as does."""

        def __init__(self, stream):
            self.stream, self.name, self.seek, self.read = stream, stream.name, stream.seek, stream.read

        def write(self, content):
            if short:
                return self.stream.write(content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

    kept.store.stream = Full(kept.store.stream)
    assert _ask(kept, 0, 1, 2) == [1, 2]
    assert _ask(kept, 2, 1, 0) == [2, 1]
    assert caplog.text.count("no more features are kept: No space left on device") == 1


def test_a_folder_that_cannot_be_written_to_is_said_and_nothing_kept(tmp_path, caplog):
    (tmp_path / "file").touch()
    kept = _kept(tmp_path / "file")
    assert _ask(kept, 1) == [1]
    assert _ask(kept, 1) == [1]
    assert caplog.text.count("targets' features are computed each time: ") == 1


def test_a_device_answers_for_whole_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(KeptFeatures, "_open", lambda self, like: OnDevice(self.pictures.rows, like))
    kept = _kept(tmp_path)
    with torch.inference_mode():
        assert _ask(kept, 5, 0) == [5, 0]
    assert _ask(kept, 0, 5) == []
    assert _ask(kept, 0, 7) == [0, 7]  # all at the usual size, rather than a part of it
    assert _ask(kept, 7, 5, 0) == []


def _run(art, run, *overrides):
    train(small(art, run, "data.batch_size=8", "trainer.max_steps=9", f"data.cache_dir={run.parent}/cache", *overrides))
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture
def seen(monkeypatch):
    """How many pictures went through VGG16."""
    counted = []
    build = PerceptualLoss.__init__

    def counting(self, **settings):
        build(self, **settings)
        forward = self.features.forward
        self.features.forward = lambda image: counted.append(len(image)) or forward(image)

    monkeypatch.setattr(PerceptualLoss, "__init__", counting)
    return counted


def test_keeping_features_changes_nothing_but_the_work(art, tmp_path, seen):
    states, work = {}, {}
    for name, keep in (("without", 0), ("first", 1), ("second", 1)):
        states[name] = _run(art, tmp_path / name, f"loss.perceptual.keep={keep}")
        work[name] = sum(seen)
        seen.clear()
    for name in ("first", "second"):
        assert all(torch.equal(states[name][key], value) for key, value in states["without"].items())
    assert work["second"] < work["first"] < work["without"]
    assert work["second"] <= work["without"] / 2 + 8  # outputs, and the first batch of targets
    kept = [one for one in cache.kept(tmp_path / "cache") if one.what == "perceptual features of pictures"]
    assert len(kept) == 1
    assert cache.remove(kept[0])
    assert not list((tmp_path / "cache/features").glob("*.features"))


def test_a_run_that_was_stopped_goes_on_with_half_of_the_features_kept(art, tmp_path):
    whole = _run(art, tmp_path / "whole", "loss.perceptual.keep=0")
    _run(art, tmp_path / "part", "loss.perceptual.keep=1", "trainer.max_steps=3")
    ckpt = f"ckpt={tmp_path}/part/checkpoints/last.ckpt"
    resumed = _run(art, tmp_path / "resumed", "loss.perceptual.keep=1", ckpt)
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())


@pytest.mark.parametrize("changes", ["data.flip=0.5", "data.random_crop=4", "data.cache=false"])
def test_features_of_pictures_that_change_are_not_kept(art, tmp_path, changes):
    _run(art, tmp_path / "run", changes, "trainer.max_steps=1")
    assert not (tmp_path / "cache/features").exists()
