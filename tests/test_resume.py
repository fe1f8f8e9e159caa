"""A run that was stopped and carried on is, bit for bit, the run that was not."""

import pytest
import torch
from conftest import small

from artdiff import UserError
from artdiff.train import train

STEPS_AN_EPOCH = 5  # 39 training pictures in batches of 8


def _train(art, run, *overrides):
    every_epoch = "callbacks.every_ten_epochs.every_n_epochs=1"
    decay = ("scheduler.step_size=1", "scheduler.gamma=0.5")
    train(small(art, run, "data.batch_size=8", every_epoch, *decay, *overrides))
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def uninterrupted(art, tmp_path_factory):
    return _train(art, tmp_path_factory.mktemp("whole"), "trainer.max_steps=9")


@pytest.mark.parametrize(
    ("stop", "checkpoint"),
    [
        (STEPS_AN_EPOCH - 2, "last"),
        (STEPS_AN_EPOCH, "last"),
        (STEPS_AN_EPOCH, "best"),
        (STEPS_AN_EPOCH, "epoch_0000"),
        (STEPS_AN_EPOCH + 2, "last"),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(art, uninterrupted, tmp_path, stop, checkpoint):
    part = _train(art, tmp_path / "part", f"trainer.max_steps={stop}")
    assert part["global_step"] == stop
    ckpt = tmp_path / f"part/checkpoints/{checkpoint}.ckpt"
    resumed = _train(art, tmp_path / "resumed", "trainer.max_steps=9", f"ckpt={ckpt}")
    assert resumed["global_step"] == uninterrupted["global_step"] == 9
    for name, value in uninterrupted["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    assert uninterrupted["lr_schedulers"] == resumed["lr_schedulers"]


def test_nothing_left_to_do_is_said(art, tmp_path):
    _train(art, tmp_path / "part", "trainer.max_steps=2")
    with pytest.raises(UserError, match="no step to take after step 2"):
        train(
            small(
                art,
                tmp_path / "again",
                "trainer.max_steps=2",
                "data.batch_size=8",
                f"ckpt={tmp_path / 'part'}",
            )
        )
