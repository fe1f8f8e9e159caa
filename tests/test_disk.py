"""How much a run writes is told before it trains."""

import logging
import shutil
from types import SimpleNamespace

import pytest
from conftest import small, train

from artdiff import UserError
from artdiff.training import disk

PAINTS = ("task=generation", "network=unet", "network.channels=[32,64]", "network.cond_dim=64", "scheduler=null")
WORDS = (*PAINTS, "data.image_size=16", "callbacks.grids=null", "loss=mse", "trainer.max_steps=1")


def free(monkeypatch, count):
    monkeypatch.setattr(disk, "shutil", SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=count)))


def test_a_checkpoint_is_about_as_large_as_was_estimated(art, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(disk, "check", lambda trainer, task, data, folder: found.append(disk.checkpoint_bytes(task)))
    run = train(small(art, tmp_path, *WORDS))
    assert found[0] == pytest.approx(run.last.stat().st_size, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "least", "most"),
    [
        (("trainer.max_epochs=25",), 3, 1 + 2 + 1 + 2),  # last and the one before, the best, epochs 10 and 20
        (("trainer.max_epochs=25", "callbacks.last.keep=4", "callbacks.best=null"), 2, 1 + 4 + 2),
        (("trainer.max_epochs=-1",), 3, float("inf")),
        (("trainer.max_epochs=25", "callbacks.every_ten_epochs=null"), 3, 4),
    ],
)
def test_checkpoints_are_counted(art, tmp_path, monkeypatch, words, least, most):
    found = []

    def check(trainer, task, data, folder):
        found.append(disk.checkpoints_kept(trainer, disk._epochs(trainer, data)))
        trainer.fit_loop.epoch_loop.max_steps = 1

    monkeypatch.setattr(disk, "check", check)
    train(small(art, tmp_path, *WORDS, "trainer.max_steps=-1", *words))
    assert found == [(least, most)]


def test_what_cannot_fit_is_refused_and_what_may_not_is_warned_of(art, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    free(monkeypatch, 1_000_000)
    with pytest.raises(
        UserError, match=r"has no room for this run, which needs \d+ MB: a checkpoint takes about \d+ MB"
    ):
        train(small(art, tmp_path / "one", *WORDS))
    assert not (tmp_path / "one").exists()
    free(monkeypatch, 50_000_000)
    train(small(art, tmp_path / "two", *WORDS))
    assert "the disk may become full: a checkpoint takes about" in caplog.text
    caplog.clear()
    free(monkeypatch, shutil.disk_usage(tmp_path).total + 10**12)
    train(small(art, tmp_path / "three", *WORDS))
    assert "disk: a checkpoint takes about" in caplog.text
    assert "may become full" not in caplog.text


def test_a_run_that_is_carried_on_needs_no_room_for_what_lies_there(tmp_path, monkeypatch, caplog):
    found = {"checkpoint_bytes": 100_000_000, "checkpoints_kept": (3, 5), "_epochs": 1, "_grid_bytes": 0}
    for name, value in found.items():
        monkeypatch.setattr(disk, name, lambda *of, value=value: value)
    free(monkeypatch, 250_000_000)
    with pytest.raises(UserError, match="has no room for this run, which needs 300 MB"):
        disk.check(None, None, None, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for name in ("last", "best"):
        with (tmp_path / f"checkpoints/{name}.ckpt").open("wb") as file:
            file.truncate(100_000_000)
    disk.check(None, None, None, tmp_path)
    assert "callbacks.last.keep=1 and callbacks.every_ten_epochs=null keep fewer checkpoints" in caplog.text
    free(monkeypatch, 90_000_000)
    with pytest.raises(UserError, match="has no room for this run, which needs 100 MB"):
        disk.check(None, None, None, tmp_path)
