"""A run that was stopped and carried on is, bit for bit, the run that was not."""

import json

import pytest
import torch
from conftest import small, train

from artdiff import UserError

STEPS_AN_EPOCH = 5


def _train(art, run, *overrides):
    every_epoch = "callbacks.every_ten_epochs.every_n_epochs=1"
    decay = ("scheduler.step_size=1", "scheduler.gamma=0.5")
    train(small(art, run, "data.batch_size=8", every_epoch, *decay, *overrides))
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def _best(checkpoint):
    callbacks = checkpoint["callbacks"]
    return next(state["best_model_score"] for state in callbacks.values() if state.get("monitor") == "val/loss")


@pytest.fixture(scope="module")
def uninterrupted(art, tmp_path_factory):
    return _train(art, tmp_path_factory.mktemp("whole"), "trainer.max_steps=9")


@pytest.mark.parametrize(
    ("stop", "checkpoint"),
    [
        (STEPS_AN_EPOCH - 2, "last"),
        (STEPS_AN_EPOCH - 2, "best"),
        (STEPS_AN_EPOCH, "last"),
        (STEPS_AN_EPOCH, "best"),
        (STEPS_AN_EPOCH, "epoch_0000"),
        (STEPS_AN_EPOCH + 2, "last"),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(art, uninterrupted, tmp_path, stop, checkpoint):
    part = _train(art, tmp_path / "part", f"trainer.max_steps={stop}")
    assert part["global_step"] == stop
    assert part["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] == stop
    ckpt = tmp_path / f"part/checkpoints/{checkpoint}.ckpt"
    resumed = _train(art, tmp_path / "resumed", "trainer.max_steps=9", f"ckpt={ckpt}")
    assert resumed["global_step"] == uninterrupted["global_step"] == 9
    for name, value in uninterrupted["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    assert uninterrupted["lr_schedulers"] == resumed["lr_schedulers"]
    for name, state in uninterrupted["optimizer_states"][0]["state"].items():
        assert all(
            torch.equal(value, resumed["optimizer_states"][0]["state"][name][key]) for key, value in state.items()
        )


def test_nothing_left_to_do_is_said(art, tmp_path):
    _train(art, tmp_path / "part", "trainer.max_steps=2")
    with pytest.raises(UserError, match="no step to take after step 2"):
        _train(art, tmp_path / "again", "trainer.max_steps=2", f"ckpt={tmp_path / 'part'}")


def test_the_best_score_is_remembered_in_the_same_folder(art, tmp_path):
    part = _train(art, tmp_path, "trainer.max_steps=5")
    assert _best(part) < float("inf")
    worse = _train(art, tmp_path, "trainer.max_steps=6", "ckpt=last", "loss.mse_weight=1000")
    assert _best(worse) == _best(part)
    assert torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)["global_step"] == 5


def test_a_finished_run_is_not_overwritten(art, tmp_path):
    _train(art, tmp_path, "trainer.max_steps=1")
    with pytest.raises(UserError, match="holds a run already: carry it on with ckpt=last"):
        _train(art, tmp_path, "trainer.max_steps=1")


def test_a_run_is_carried_on_with_what_it_began_with(art, tmp_path):
    _train(art, tmp_path, "trainer.max_steps=1")
    for other in ("optimizer.lr=5e-4", "experiment=article"):
        with pytest.raises(UserError, match="a run is carried on with what it began with"):
            _train(art, tmp_path, "trainer.max_steps=2", "ckpt=last", other)


def test_other_pictures_begin_their_order_anew(art, tmp_path, caplog):
    _train(art, tmp_path / "one", "trainer.max_steps=3")
    _train(art, tmp_path / "two", "trainer.max_steps=4", f"ckpt={tmp_path / 'one'}", "seed=1")
    assert "their order begins anew" in caplog.text


def test_the_last_step_is_validated_whatever_the_interval(art, tmp_path):
    last = _train(art, tmp_path, "trainer.max_steps=3", "trainer.check_val_every_n_epoch=50")
    assert _best(last) < float("inf")


def test_last_is_the_newest_run_beside_this_one(art, tmp_path):
    for name, elsewhere in (("a", "runs"), ("b", "runs"), ("c", "other")):
        _train(art, tmp_path / elsewhere / name, "trainer.max_steps=1")
    _train(art, tmp_path / "runs/d", "trainer.max_steps=2", "ckpt=last")
    metadata = json.loads((tmp_path / "runs/d/metadata.json").read_text())
    assert metadata["carried_on_from"] == str(tmp_path / "runs/b/checkpoints/last.ckpt")
