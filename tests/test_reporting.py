"""Nothing that only reports may fail a run: names that are no UTF-8, loggers that fail, a disk that is full."""

import errno
import json
import os
import shutil
import sys

import pytest
import yaml
from conftest import composed, generate, in_process, small, train
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from artdiff import UserError, images, origin
from artdiff.data.datamodule import ArtDataModule
from artdiff.tasks import Reconstruction
from artdiff.training import report

QUICK = ("data.image_size=16", "loss=mse", "callbacks.grids.every_n_steps=1")
PAINTS = ("task=generation", "network=unet", "network.channels=[16,32]", "network.cond_dim=16")
CAFE = os.fsdecode(b"caf\xe9")


@pytest.fixture(scope="module")
def odd(art, tmp_path_factory):
    """A folder, and a class in it, whose names are Latin-1."""
    if sys.platform != "linux":
        pytest.skip("only Linux has such names")
    root = tmp_path_factory.mktemp("odd") / CAFE
    shutil.copytree(art / "engraving", root / CAFE)
    shutil.copytree(art / "truchet", root / "plain")
    return root


@pytest.mark.slow
def test_a_folder_and_a_class_whose_names_are_no_text(odd, tmp_path, caplog):
    run = train(small(odd, tmp_path / "run", *QUICK, *PAINTS, "scheduler=null"))
    assert run.metadata["finished"]
    assert "training goes on" not in caplog.text
    (tmp_path / "run/metadata.json").read_text(encoding="ascii")
    assert run.metadata["data"]["root"] == str(odd)
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text(encoding="utf-8"))
    assert config["data"]["root"] == str(odd)
    assert config["task"]["classes"] == [CAFE, "plain"]
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    shown = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert rb"caf\xe9" in shown
    words = (f"ckpt={run.folder}", f"out={tmp_path}/out", "steps=1", "n=1", "device=cpu")
    assert [path.name for path in generate(composed("generate", *words))] == ["caf__0.png", "plain_0.png", "sheet.png"]
    assert json.loads(images.Image.open(tmp_path / "out/caf__0.png").text["artdiff"])["label"] == CAFE


@pytest.mark.slow
def test_a_run_in_a_folder_whose_name_is_no_text(odd, tmp_path):
    words = (
        *QUICK,
        *PAINTS,
        "debug=two_steps",
        "trainer=cpu",
        "scheduler=null",
        "data.root=art",
        "hydra.run.dir=" + CAFE,
    )
    (tmp_path / "art").symlink_to(odd)
    printed = in_process("artdiff.train", *words, cwd=tmp_path)
    assert "TensorBoardLogger cannot be opened, training goes on: UnicodeEncodeError" in printed
    assert "done at step 2" in printed
    run = tmp_path / CAFE
    assert json.loads((run / "metadata.json").read_text())["finished"]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "last-1.ckpt", "best.ckpt"}
    assert r"caf\udce9" in (run / "train.log").read_text(encoding="utf-8")


def broken(*words, **named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["log_metrics", "log_hyperparams", "save", "finalize"])
def test_a_logger_that_fails_is_warned_of_once(art, tmp_path, monkeypatch, caplog, method):
    monkeypatch.setattr(TensorBoardLogger, method, broken)
    run = train(small(art, tmp_path, *QUICK, "trainer.log_every_n_steps=1", "callbacks.grids=null"))
    assert run.metadata["finished"]
    line = "TensorBoardLogger fails, training goes on: OSError [Errno 28] No space left on device"
    assert caplog.messages.count(line) == 1


def test_a_logger_that_cannot_be_opened_is_left_out(art, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(CSVLogger, "experiment", property(broken))
    assert train(small(art, tmp_path, *QUICK, "logger=csv")).metadata["finished"]
    assert "CSVLogger cannot be opened, training goes on" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "name", "line"),
    [
        (origin, "save", "a grid of samples is not saved"),
        (Reconstruction, "sample_grid", "a grid of samples is not painted"),
        (ArtDataModule, "preview", "no grids of samples are painted"),
        (report, "typed", "the closing report is not complete"),
    ],
)
def test_a_report_that_fails_does_not_fail_the_run(art, tmp_path, monkeypatch, caplog, place, name, line):
    monkeypatch.setattr(place, name, broken)
    assert train(small(art, tmp_path, *QUICK)).metadata["finished"]
    assert f"{line}, training goes on: OSError [Errno 28] No space left on device" in caplog.text


def test_metadata_that_cannot_be_completed_do_not_fail_the_run(art, tmp_path, monkeypatch, caplog):
    from artdiff.runs import Run

    note = Run.note
    monkeypatch.setattr(Run, "note", lambda self, **facts: broken() if "scores" in facts else note(self, **facts))
    assert train(small(art, tmp_path, *QUICK)).last.exists()
    assert "metadata.json is not complete" in caplog.text


def test_a_checkpoint_that_cannot_be_written_does_fail_the_run(art, tmp_path, monkeypatch):
    monkeypatch.setattr("artdiff.training.checkpoint_writer.torch.save", broken)
    with pytest.raises(UserError, match="No space left on device; make room there"):
        train(small(art, tmp_path, *QUICK))
