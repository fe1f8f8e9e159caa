"""A painter's distance to held-out pictures is measured while it trains, and changes nothing else."""

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import small, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import artdiff
from artdiff import UserError
from artdiff.training.painting_score import PaintingScore

WORDS = ("task=generation", "network=unet", "network.channels=[16,32]", "network.cond_dim=16", "network.dropout=0.1",
         "scheduler=null", "data.image_size=16", "loss=mse", "callbacks.grids=null", "data.batch_size=8",
         "data.val_fraction=0.4", "trainer.max_epochs=4", "trainer.max_steps=-1")  # fmt: skip
SCORE = ("callbacks.painting_score.every_n_validations=2", "callbacks.painting_score.n=12",
         "callbacks.painting_score.steps=2")  # fmt: skip


@pytest.fixture(scope="module")
def scored(art, tmp_path_factory):
    return train(small(art, tmp_path_factory.mktemp("scored") / "run", *WORDS, *SCORE))


def test_it_is_what_evaluate_finds(scored):
    board = EventAccumulator(str(scored.folder)).Reload()
    shown = [one.value for one in board.Scalars("val/frechet")]
    assert len(shown) == 2  # every second of four validations
    found = artdiff.evaluate(scored.last, n=12, steps=2, bootstrap=0, originality=False, representation=0)
    assert shown[-1] == pytest.approx(found.scored[0].frechet.value, rel=1e-3)


def test_the_training_is_the_same_without_it(art, scored, tmp_path):
    plain = train(small(art, tmp_path / "run", *WORDS))
    with_it, without = (torch.load(run.last, weights_only=True)["state_dict"] for run in (scored, plain))
    assert all(torch.equal(with_it[name], without[name]) for name in without)


def test_its_settings_are_checked():
    with pytest.raises(UserError, match="callbacks.painting_score.n must be a whole number of at least 2, got 0"):
        PaintingScore(every_n_validations=1, n=0, steps=2, most_held_out=10)
    with pytest.raises(UserError, match="every_n_validations must be a whole number of at least 0, got -1"):
        PaintingScore(every_n_validations=-1, n=2, steps=2, most_held_out=10)


def test_a_distance_that_is_no_number_is_logged_as_it_is_and_an_error_is_raised(monkeypatch):
    score, logged = PaintingScore(every_n_validations=1, n=2, steps=2, most_held_out=10), []
    trainer = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(broadcast=lambda found: found))
    task = SimpleNamespace(log=lambda name, value: logged.append(value))
    monkeypatch.setattr(PaintingScore, "_frechet", lambda *of: math.nan)
    score._log(trainer, task)
    assert math.isnan(*logged)
    trainer.is_global_zero = False
    with pytest.raises(UserError, match="val/frechet could not be computed: the first rank says why"):
        score._log(trainer, task)
