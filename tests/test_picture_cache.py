"""Features of unchanging pictures are computed once, and what is read is what was computed."""

import errno
import hashlib
import os
import time

import pytest
import torch
from conftest import small, train

from artdiff import cache, store
from artdiff.losses import PerceptualLoss
from artdiff.picture_cache import IN_USE, OnDevice, PictureCache, make_room, taken
from artdiff.store import Contents

LIKE = torch.empty(4, 4, 8)


def _features(*index, dtype=torch.float32):
    """Channels-last features (B,C,H,W) that some pictures might have."""
    found = [torch.randn(4, 4, 8, generator=torch.Generator().manual_seed(one)) for one in index]
    return torch.stack(found).to(dtype).permute(0, 3, 1, 2)


class Computer:
    """Computes features, and remembers of which pictures."""

    def __init__(self, index, dtype=torch.float32):
        self.index, self.dtype, self.asked = index, dtype, []

    def __call__(self, places):
        self.asked += [self.index[place] for place in places]
        return _features(*(self.index[place] for place in places), dtype=self.dtype)


def _computed(features, *index, dtype=torch.float32):
    """Asks the cache for some pictures, and returns those whose features were computed."""
    computer = Computer(index, dtype)
    answer = features(torch.tensor(index), computer)
    assert torch.equal(answer, _features(*index, dtype=dtype))
    assert answer.is_contiguous(memory_format=torch.channels_last)
    return computer.asked


def _contents(folder, name="some", count=100):
    return Contents([hashlib.sha256(f"{name} {one}".encode()).digest() for one in range(count)], folder)


def _cache(folder, recipe="VGG16", gigabytes=1.0, name="some"):
    return PictureCache(_contents(folder, name), recipe, gigabytes, room="features")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_computed_is_read_also_by_the_next_run(tmp_path, dtype):
    features = _cache(tmp_path)
    assert _computed(features, 5, 0, 7, dtype=dtype) == [5, 0, 7]
    assert _computed(features, 7, 5, dtype=dtype) == []
    assert _computed(features, 9, 0, 8, dtype=dtype) == [9, 8]
    again = _cache(tmp_path)
    _computed(again, 1, dtype=dtype)  # the first batch of a run shows what features are like
    assert _computed(again, 0, 5, 7, 8, 9, 3, dtype=dtype) == [3]


def test_a_picture_keeps_its_features_at_another_index(tmp_path):
    _computed(_cache(tmp_path), 1, 2, 3)
    contents = _contents(tmp_path)
    moved = PictureCache(contents._replace(keys=contents.keys[1:]), "VGG16", 1.0, room="features")
    moved(torch.tensor([50]), lambda places: _features(51))
    assert torch.equal(moved(torch.tensor([1, 0]), None), _features(2, 1))


def test_other_weights_pictures_and_precisions_have_features_of_their_own(tmp_path):
    _computed(_cache(tmp_path), 1, 2)
    for other, dtype in (
        (_cache(tmp_path, recipe="VGG19"), torch.float32),
        (_cache(tmp_path, name="others"), torch.float32),
        (_cache(tmp_path), torch.bfloat16),
    ):
        _computed(other, 1, dtype=dtype)
        assert _computed(other, 2, dtype=dtype) == [2]


@pytest.mark.parametrize("damage", ["other bytes", "cut off", "zeros"])
def test_features_that_fail_their_crc_are_computed_again(tmp_path, damage):
    _computed(_cache(tmp_path), 0, 1, 2)
    (path,) = (tmp_path / "features").glob("*.rows")
    content = bytearray(path.read_bytes())
    size = len(content) // 3
    if damage == "other bytes":
        content[-9] ^= 1
    content[2 * size :] = {"cut off": content[2 * size : -9], "zeros": bytes(size)}.get(damage, content[2 * size :])
    path.write_bytes(content)
    again = _cache(tmp_path)
    _computed(again, 9)
    assert _computed(again, 0, 1, 2) == [2]
    assert _computed(again, 2) == []


def test_no_more_is_kept_than_is_allowed(tmp_path):
    features = _cache(tmp_path, gigabytes=3 * LIKE.nbytes / 1e9)
    _computed(features, 0, 1, 2, 3, 4)
    assert _computed(features, 4, 2, 0, 3) == [4, 3]
    assert sum(path.stat().st_size for path in (tmp_path / "features").glob("*.rows")) <= 3 * LIKE.nbytes


def test_a_file_full_of_other_pictures_is_begun_anew(tmp_path):
    gigabytes = 4 * LIKE.nbytes / 1e9
    _computed(_cache(tmp_path, gigabytes=gigabytes, name="others"), 0, 1, 2, 3)
    features = _cache(tmp_path, gigabytes=gigabytes)
    _computed(features, 0, 1)
    assert _computed(features, 0, 1) == []


def test_files_unused_for_longest_make_room(tmp_path):
    files = [tmp_path / name for name in ("a.rows", "b.features", "c.rows", "d.rows")]
    for age, path in enumerate(reversed(files)):
        path.write_bytes(bytes(8192))
        os.utime(path, (time.time() - age * IN_USE * 1.5,) * 2)  # the last one is in use
    (tmp_path / "a.keys").touch()
    assert make_room(tmp_path / "new.rows", 2 * 8192) == 2 * 8192
    assert sorted(tmp_path.iterdir()) == files[2:]
    assert make_room(tmp_path / "new.rows", 0) == 8192
    assert list(tmp_path.iterdir()) == files[3:]


def test_what_another_run_uses_leaves_less_room(tmp_path):
    _computed(_cache(tmp_path, recipe="another"), *range(100))
    (other,) = (tmp_path / "features").glob("*.rows")
    features = _cache(tmp_path, gigabytes=(taken(other) + 3 * LIKE.nbytes) / 1e9)
    _computed(features, 0, 1, 2, 3)
    assert _computed(features, 0, 1, 2, 3) == [3]


@pytest.mark.parametrize("short", [False, True], ids=["refused", "cut short"])
def test_a_full_disk_stops_the_caching_and_not_the_run(tmp_path, monkeypatch, caplog, short):
    features = _cache(tmp_path)
    _computed(features, 0)
    write = os.pwrite

    def full(stream, content, offset):
        """A disk that refuses what no longer fits, or writes as much of it as does."""
        if short and len(content) > 100:
            return write(stream, content[:100], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "pwrite", full)
    assert _computed(features, 0, 1, 2) == [1, 2]
    assert _computed(features, 2, 1, 0) == [2, 1]
    assert caplog.text.count("No space left on device") == 1


def test_a_folder_that_cannot_be_written_to_is_reported_and_nothing_cached(tmp_path, caplog):
    (tmp_path / "file").touch()
    features = _cache(tmp_path / "file")
    assert _computed(features, 1) == [1]
    assert _computed(features, 1) == [1]
    assert caplog.text.count("features are not cached: ") == 1


def test_a_gpu_answers_for_whole_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(PictureCache, "_open", lambda self, like: OnDevice(len(self.contents.keys), like))
    features = _cache(tmp_path)
    with torch.inference_mode():
        assert _computed(features, 5, 0) == [5, 0]
    assert _computed(features, 0, 5) == []
    assert _computed(features, 0, 7) == [0, 7]  # all at the usual batch size, rather than a part of it
    assert _computed(features, 7, 5, 0) == []


FEW = ("data.batch_size=8", "trainer.max_steps=9", "trainer.log_every_n_steps=100", "loss.perceptual.layer=relu2_2")


def _run(art, run, *overrides):
    train(small(art, run, *FEW, "callbacks.grids=null", f"data.cache_dir={run.parent}/cache", *overrides))
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


@pytest.mark.slow
def test_caching_features_changes_nothing_but_the_work(art, tmp_path, seen):
    states, work = {}, {}
    for name, keep, stop in (("without", 0, 9), ("part", 1, 3), ("first", 1, 9), ("second", 1, 9)):
        ckpt = (f"ckpt={tmp_path}/part/checkpoints/last.ckpt",) if name == "first" else ()
        keeping = (f"loss.perceptual.keep={keep}", f"trainer.max_steps={stop}")
        states[name] = _run(art, tmp_path / name, *keeping, *ckpt)  # "first" goes on with half of the features cached
        work[name] = sum(seen)
        seen.clear()
    for name in ("first", "second"):
        assert all(torch.equal(states[name][key], value) for key, value in states["without"].items())
    assert work["second"] < work["part"] + work["first"] < work["without"]
    assert work["second"] <= work["without"] / 2 + 8  # outputs, and the first batch of targets
    kept = [one for one in cache.kept(tmp_path / "cache") if one.what == "perceptual features of pictures"]
    assert len(kept) == 1
    assert cache.remove(kept[0])
    assert not list((tmp_path / "cache/features").glob("*.rows"))


@pytest.mark.slow
@pytest.mark.parametrize("changes", ["data.flip=0.5", "data.train_crop=16", "data.random_crop=4", "data.cache=false"])
def test_features_of_pictures_that_change_are_not_cached(art, tmp_path, changes):
    _run(art, tmp_path / "run", changes, "trainer.max_steps=1", "callbacks.best=null")
    assert not (tmp_path / "cache/features").exists()
