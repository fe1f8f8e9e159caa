"""Files are written whole or not at all, and no home is needed where nothing lies in one."""

import errno
import os
import pwd
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import composed, generate, in_process, put, small, train
from PIL import Image

from artdiff import UserError, cache, files, images, runs
from artdiff.files import printable, user_path, write, writing
from artdiff.ingest import sample_art
from artdiff.losses import weights
from artdiff.painter import Painting
from artdiff.training.checkpoint_writer import CheckpointWriter


@contextmanager
def disk(folder, size):
    """A disk of its own at `folder`."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def little(tmp_path_factory):
    """A disk of 64 KB."""
    with disk(tmp_path_factory.mktemp("little"), "64k") as folder:
        yield folder


@pytest.fixture
def larger(tmp_path):
    """A disk of 32 MB."""
    (tmp_path / "larger").mkdir()
    with disk(tmp_path / "larger", "32m") as folder:
        yield folder


def fails(*words):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full(monkeypatch):
    """A disk that turns out to be full once everything is written."""
    monkeypatch.setattr(files, "os", SimpleNamespace(**{**vars(os), "fsync": fails}))


NOISE = Image.frombytes("RGB", (256, 256), bytes(torch.randint(256, (256 * 256 * 3,), dtype=torch.uint8).tolist()))
WRITERS = {
    "text": lambda path: write(path, "é" * 100_000),
    "checkpoint": lambda path: CheckpointWriter().save_checkpoint({"weights": torch.zeros(50_000)}, path),
    "picture": lambda path: images.save(NOISE, path),
    "painting": lambda path: Painting("name", NOISE, {"seed": 1}).save(path),
    "json": lambda path: cache.write_json(path, ["x"] * 50_000),
}


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    (tmp_path / "link").symlink_to("file")
    for content in ("one", "two"):
        write(tmp_path / "link", content)
        assert (tmp_path / "file").read_text() == content
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}
    (tmp_path / "usual").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, full, kind):
    (tmp_path / "file").write_text("old")
    with pytest.raises(UserError) as caught:
        WRITERS[kind](tmp_path / "file")
    assert str(caught.value) == (
        f"file cannot be written to the folder {tmp_path}: No space left on device; make room there"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("kind", WRITERS)
def test_a_disk_that_is_full_leaves_the_old_file(little, kind):
    (little / "file").write_text("old")
    with pytest.raises(UserError, match=f"file cannot be written to the folder {little}: No space left on device"):
        WRITERS[kind](little / "file")
    assert [path.name for path in little.iterdir()] == ["file"]
    assert (little / "file").read_text() == "old"


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    write(tmp_path / ("é" * 125 + ".json"), "[]")
    assert (tmp_path / ("é" * 125 + ".json")).read_text() == "[]"


def test_a_mistake_while_writing_is_raised_as_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "file") as stream:
        stream.write(b"half")
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(UserError, match=f"to the folder {tmp_path}/gone: No such file or directory; choose another"):
        write(tmp_path / "gone/file", "")


def test_saving_needs_no_folder_for_temporary_files(art, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning.fabric.plugins.io.torch_io._atomic_save", fails)  # goes through TMPDIR
    run = train(small(art, tmp_path / "run", "data.image_size=16", "callbacks.every_ten_epochs.every_n_epochs=1"))
    names = {"last.ckpt", "last-1.ckpt", "best.ckpt", "epoch_0000.ckpt"}
    assert {path.name for path in run.last.parent.iterdir()} == names


def test_a_run_on_a_full_disk_ends_in_one_line_with_its_checkpoint(art, tmp_path, monkeypatch):
    words = ("data.image_size=16", "callbacks.grids=null", "loss=mse")
    run = train(small(art, tmp_path / "run", *words, "trainer.max_steps=1"))
    before = run.last.read_bytes()
    (run.last.parent / "last.ckpt.0123.unfinished").touch()  # left by a run that was killed
    monkeypatch.setattr("artdiff.training.checkpoint_writer.torch.save", fails)
    with pytest.raises(UserError, match=r"best.ckpt|last.ckpt cannot be written to the folder .*checkpoints"):
        train(small(art, tmp_path / "run", *words, "trainer.max_steps=2", "ckpt=last"))
    assert run.last.read_bytes() == before
    assert {path.name for path in run.last.parent.iterdir()} == {"last.ckpt", "last-1.ckpt", "best.ckpt"}


def test_a_file_gets_a_second_name_in_place_of_another(tmp_path, monkeypatch):
    (tmp_path / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    files.duplicate(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").samefile(tmp_path / "one")
    monkeypatch.setattr(files.os, "link", fails)  # a disk without second names
    files.duplicate(tmp_path / "one", tmp_path / "three")
    assert (tmp_path / "three").read_text() == "1"
    assert not (tmp_path / "three").samefile(tmp_path / "one")
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "three"}
    with pytest.raises(UserError, match=f"four cannot be written to the folder {tmp_path}/gone"):
        files.duplicate(tmp_path / "one", tmp_path / "gone/four")


def test_checkpoints_are_kept_while_a_new_one_is_written(tmp_path):
    last = tmp_path / "last.ckpt"
    for content in "abcd":
        with runs.rotating_checkpoints(last, 3):
            last.unlink(missing_ok=True)
            last.write_text(content)
    with pytest.raises(ZeroDivisionError), runs.rotating_checkpoints(last, 3):
        raise ZeroDivisionError
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"last.ckpt": "d", "last-1.ckpt": "c", "last-2.ckpt": "b"}


PAINTS = ("task=generation", "network=unet", "network.channels=[16,32]", "network.cond_dim=16", "scheduler=null")


def test_a_disk_that_fills_up_leaves_the_last_checkpoint_and_the_run_goes_on_when_there_is_room(
    art, larger, monkeypatch
):
    run, filling = larger / "run", larger / "filling"
    words = (*PAINTS, "data.image_size=16", "callbacks.grids=null", "callbacks.best=null", "loss=mse")
    saved = train(small(art, run, *words, "trainer.max_steps=1")).last.read_bytes()
    filling.write_bytes(bytes(shutil.disk_usage(larger).free - len(saved) // 2))
    further = small(art, run, *words, "trainer.max_steps=2", "ckpt=last")
    with pytest.raises(UserError, match=r"the disk of .* has no room for this run, which needs [\d.]+ MB: .* are free"):
        train(further)
    monkeypatch.setattr("artdiff.training.disk.check", lambda *_: None)  # as if it had filled up since
    with pytest.raises(UserError, match=r"last.ckpt cannot be written to the folder .*; make room there"):
        train(further)
    assert (run / "checkpoints/last.ckpt").read_bytes() == saved
    filling.unlink()
    assert train(further).metadata["steps"] == 2


def test_an_audit_on_a_full_disk_ends_in_one_line(tmp_path, full):
    put(tmp_path / "pictures/one.jpg")
    printed = in_process("artdiff.audit", "data.root=pictures", "out=out", cwd=tmp_path, expect=1)
    assert "Traceback" not in printed
    assert "No space left on device; make room there" in printed.splitlines()[-1]


def test_a_run_whose_folder_cannot_be_made_ends_in_one_line(tmp_path, little):
    (tmp_path / "runs").touch()
    printed = in_process("artdiff.train", "data.root=pictures", cwd=tmp_path, expect=1)
    assert re.fullmatch(r"\S*runs/baseline.*: (Not a directory|File exists)\n", printed)
    (little / "file").write_bytes(bytes(60_000))
    printed = in_process("artdiff.train", "data.root=pictures", f"hydra.run.dir={little}/run", cwd=tmp_path, expect=1)
    assert printed.splitlines()[-1].endswith("No space left on device; make room there")
    shutil.rmtree(little / "run")


def test_sample_art_on_a_full_disk_leaves_nothing(little):
    with pytest.raises(UserError, match=f"cannot be written to the folder {little}: "):
        sample_art.folder(little)
    assert not list(little.glob("sample_art*"))


@pytest.fixture
def no_home(monkeypatch):
    """A user without a home, as in a container that is started with a number for a user."""
    for name in ("HOME", "XDG_CACHE_HOME", "ARTDIFF_CACHE", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])


def test_without_a_home_the_remedy_is_named(no_home, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no home folder .*: set data.cache_dir or ARTDIFF_CACHE"):
        cache.chosen_folder(None)
    assert cache.chosen_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv("ARTDIFF_CACHE", str(tmp_path))
    assert cache.chosen_folder(None) == tmp_path
    with pytest.raises(UserError, match="~/art cannot be found: this user has no home folder"):
        user_path("~/art")
    with pytest.raises(UserError, match=r"no home folder .* set loss.perceptual.weights=FILE .*or set TORCH_HOME"):
        weights.load(torch.nn.Sequential(), "imagenet", layer="relu1_1")
    assert "since ImageNet's could not be had" in weights.load(torch.nn.Sequential(), "auto", layer="relu1_1")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("artdiff.train", ("data.root=pictures",)),
        ("artdiff.audit", ("data.root=pictures", "out=out")),
        ("artdiff.prune", ()),
    ],
)
def test_a_command_without_a_home_ends_in_one_line(no_home, tmp_path, command, words):
    put(tmp_path / "pictures/one.jpg")
    printed = in_process(command, *words, cwd=tmp_path, expect=1)
    assert "set data.cache_dir or ARTDIFF_CACHE" in printed.splitlines()[-1]
    assert "Traceback" not in printed


def test_nothing_is_needed_from_a_home(no_home, art, tmp_path):
    words = ("data.image_size=16", f"data.cache_dir={tmp_path}/cache", "loss=mse", "callbacks.grids=null")
    run = train(small(art, tmp_path / "run", *words))
    out = ("out=" + str(tmp_path / "out"), f"muse={art}/engraving", "device=cpu")
    assert generate(composed("generate", f"ckpt={run.folder}", *out))


def test_a_tilde_is_the_home_of_somebody_or_part_of_a_name(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/art") == tmp_path / "art"
    assert user_path("~nobody_of_this_name/art") == Path("~nobody_of_this_name/art")
    monkeypatch.setenv("ARTDIFF_CACHE", "~/cache")
    assert cache.default_folder() == tmp_path / "cache"


def test_bytes_that_are_no_text_are_shown_escaped():
    assert printable(os.fsdecode(b"caf\xe9")) == r"caf\xe9"
    assert printable("café") == "café"
