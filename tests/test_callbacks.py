"""Callbacks act once per optimizer step, also with accumulated gradients, and log what the board shows."""

import csv
import gc
import json
import logging
import math
import re
import signal
import weakref
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import lightning.pytorch as L
import pytest
import torch
from conftest import small, train
from hydra.errors import InstantiationException
from lightning.pytorch.callbacks import Timer
from PIL import Image

from artdiff import UserError
from artdiff.cli import user_error
from artdiff.tasks import Autoencoding, Generation, Reconstruction
from artdiff.training import fit, report
from artdiff.training import trainer as trainers
from artdiff.training.decay import Decay
from artdiff.training.early_stopping import EarlyStopping
from artdiff.training.grids import SampleGrids
from artdiff.training.last_checkpoint import STOPPING, LastCheckpoint
from artdiff.training.loop import progress, time_left
from artdiff.training.monitor import memory, resident
from artdiff.training.painting_score import PaintingScore
from artdiff.training.progress import PlainProgress, ProgressBar

ACCUMULATE = ("data.image_size=16", "loss=mse", "data.batch_size=4", "+trainer.accumulate_grad_batches=2")
STEPS_PER_EPOCH = 5
"""Nine batches in an epoch of the sample art: four steps of two, and one of the last batch alone."""


@pytest.fixture(scope="module")
def accumulated(art, tmp_path_factory):
    """A run of six optimizer steps, and at which step each callback acted."""
    run, acted = tmp_path_factory.mktemp("accumulated"), []
    with pytest.MonkeyPatch.context() as patch:
        for kind, method in ((SampleGrids, "_show"), (LastCheckpoint, "_save"), (PlainProgress, "_say")):
            original = getattr(kind, method)

            def noted(self, trainer, *words, original=original, kind=kind):
                acted.append((kind, trainer.global_step))
                original(self, trainer, *words)

            patch.setattr(kind, method, noted)
        patch.setattr(trainers, "PlainProgress", lambda seconds: PlainProgress(seconds=0))
        words = ("callbacks.grids.every_n_steps=1", "callbacks.last.pause=0", "logger=csv", "trainer.max_steps=6")
        decay = ("scheduler.step_size=1", "scheduler.gamma=0.5", "trainer.log_every_n_steps=1")
        train(small(art, run, *ACCUMULATE, *words, *decay))
    return run, acted


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        (SampleGrids, [1, 2, 3, 4, 5, 6]),
        (LastCheckpoint, [5, 5, 6, 6]),  # after the last batch of an epoch or run, and after its validation
        (PlainProgress, [1, 2, 3, 4, 5, 5, 6, 6]),
    ],
)
def test_a_callback_acts_once_per_optimizer_step(accumulated, kind, steps):
    assert [step for who, step in accumulated[1] if who is kind] == steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (("callbacks.last.every_minutes=1e-9",), [1, 2, 3, 3]),  # the last one after the validation
        (("callbacks.last.every_minutes=1e9",), [3, 3]),
        (("callbacks.last.every_minutes=null",), [3, 3]),
        (("callbacks.last.every_minutes=null", "+trainer.val_check_interval=1"), [1, 2, 3, 3]),  # not within a step
    ],
)
def test_last_is_saved_by_time_between_steps(art, tmp_path, monkeypatch, words, steps):
    saved, original = [], L.Trainer.save_checkpoint

    def noted(self, path, *more):
        saved.extend([self.global_step] * str(path).endswith("last.ckpt"))
        original(self, path, *more)

    monkeypatch.setattr(L.Trainer, "save_checkpoint", noted)
    train(small(art, tmp_path, *ACCUMULATE, *words, "trainer.max_steps=3", "callbacks.grids=null"))
    assert saved == steps


def test_a_run_leaves_no_handler_of_signals_and_so_nothing_of_itself(art, tmp_path, monkeypatch):
    """A handler would keep the trainer, its data and their open files for as long as the program lives."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    built, build = [], fit._build

    def noted(*words):
        data, task = build(*words)
        built.extend((weakref.ref(data), weakref.ref(task)))
        return data, task

    monkeypatch.setattr(fit, "_build", noted)
    train(small(art, tmp_path, "data.image_size=16", "loss=mse", "callbacks.grids=null"))
    assert {number: signal.getsignal(number) for number in STOPPING} == before
    gc.collect()
    assert [one() for one in built] == [None, None]


def test_the_intervals_of_grids_and_saves_are_checked():
    with pytest.raises(UserError, match="callbacks.grids.every_n_steps must be a whole number of at least 1, got 0"):
        SampleGrids(folder="samples", every_n_steps=0, pictures=8, max_side=128, max_grids=1)
    with pytest.raises(UserError, match="callbacks.last.every_minutes must be more than 0, got 0"):
        LastCheckpoint(path="last.ckpt", pause=0, every_minutes=0)


def test_the_monitor_logs_plain_scalars(accumulated):
    with (accumulated[0] / "csv/metrics.csv").open() as stream:
        logged = [row for row in csv.DictReader(stream) if row["train/lr"]]
    assert [float(row["train/lr"]) for row in logged] == pytest.approx(STEPS_PER_EPOCH * [1e-3] + [5e-4])
    for row in logged:
        assert row["train/loss"]  # logged with the losses, at the same step
        assert 0 < float(row["train/grad_norm"]) < math.inf
        assert float(row["train/images_per_second"]) > 0
        assert 0.05 < float(row["memory/resident"]) < 1024


def test_images_per_second_counts_all_batches_of_a_step(art, tmp_path, monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr("artdiff.training.monitor.time", SimpleNamespace(monotonic=lambda: 10 * next(now)))
    words = ("logger=csv", "trainer.max_steps=4", "trainer.log_every_n_steps=2", "callbacks.grids=null")
    train(small(art, tmp_path, *ACCUMULATE, *words))
    with (tmp_path / "csv/metrics.csv").open() as stream:
        logged = [float(row["train/images_per_second"]) for row in csv.DictReader(stream) if row["train/lr"]]
    assert logged == pytest.approx([1.6, 1.6])  # 2 steps of 2 batches of 4 in 10 seconds


def test_a_long_run_is_logged_ever_less_often(art, tmp_path):
    words = ("logger=csv", "trainer.max_steps=24", "trainer.log_every_n_steps=1", "callbacks.grids=null",
             "callbacks.monitor.most_logged=4", "data.image_size=16", "loss=mse")  # fmt: skip
    run = train(small(art, tmp_path, *words))

    def logged():
        with (tmp_path / "csv/metrics.csv").open() as stream:
            return [int(row["step"]) + 1 for row in csv.DictReader(stream) if row["train/lr"]]

    assert logged() == [1, 2, 3, 4, 6, 8, 12, 16, 24]
    train(small(art, tmp_path, *words, "trainer.max_steps=32", f"ckpt={run.last}"))
    assert len(logged()) == 1  # of the steps 25 to 32: a run that is carried on goes on as it was


def test_nothing_is_logged_if_nothing_is_asked_for(art, tmp_path):
    never = ("trainer.log_every_n_steps=0", "callbacks.monitor.most_logged=1", "trainer.max_steps=3")
    assert train(small(art, tmp_path, "data.image_size=16", "loss=mse", *never)).metadata["steps"] == 3


class StopsBetween(L.Callback):
    """Asks the run to stop after the first batch, as a timer may."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = True


def test_a_run_never_ends_between_the_batches_of_a_step(art, tmp_path):
    stop = "+callbacks.stop._target_=test_callbacks.StopsBetween"
    run = train(small(art, tmp_path, *ACCUMULATE, stop, "trainer.max_steps=6", "callbacks.grids=null"))
    assert run.metadata["steps"] == 1
    last = torch.load(run.last, weights_only=True)
    assert last["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"] == 2


PAINTS = ("task=generation", "network=unet", "network.channels=[16,32]", "network.cond_dim=16", "scheduler=null")
PATIENT = ("callbacks=early_stopping", "callbacks.grids=null", "callbacks.last.pause=0", "loss=mse", "optimizer.lr=0")
AN_EPOCH_A_STEP = ("data.image_size=16", "data.batch_size=40", "trainer.max_steps=-1")


def _stops_early(art, run, *words):
    """A run whose loss never falls → its steps."""
    return train(small(art, run, *PAINTS, *AN_EPOCH_A_STEP, *PATIENT, *words)).metadata["steps"]


def test_a_run_that_no_longer_improves_stops_early_and_says_why(art, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    patient = "callbacks.early_stopping.patience=2"
    assert _stops_early(art, tmp_path, patient, "trainer.max_epochs=9") == 3
    (line,) = [line for line in caplog.messages if line.startswith("stopped early")]
    assert re.fullmatch(r"stopped early: val/loss did not improve on [\d.]+ in the last 2 validations", line)
    assert "best val/loss at step 1, epoch 1: best.ckpt" in caplog.messages
    (offer,) = [line for line in caplog.messages if line.endswith("# resumes")]
    assert "callbacks.early_stopping.patience=4" in offer
    assert json.loads((tmp_path / "metadata.json").read_text())["finished"]


@pytest.mark.slow
def test_early_stopping_counts_on_when_a_run_is_carried_on(art, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    patient = "callbacks.early_stopping.patience=2"
    assert _stops_early(art, tmp_path, patient, "trainer.max_epochs=2") == 2
    assert "stopped early" not in caplog.text
    assert _stops_early(art, tmp_path, patient, "trainer.max_epochs=9", "ckpt=last") == 3
    assert "in the last 2 validations" in caplog.text
    assert _stops_early(art, tmp_path, "callbacks.early_stopping.patience=4", "trainer.max_epochs=9", "ckpt=last") == 5
    caplog.clear()
    assert _stops_early(art, tmp_path, "callbacks.early_stopping.patience=9", "trainer.max_epochs=7", "ckpt=last") == 7
    assert "stopped early" not in caplog.text


def test_early_stopping_never_stops_between_the_batches_of_a_step(art, tmp_path):
    often = ("callbacks.early_stopping.patience=1", "+trainer.val_check_interval=1", "trainer.max_steps=9")
    run = train(small(art, tmp_path, *PAINTS, *PATIENT, *ACCUMULATE, *often))
    assert run.metadata["steps"] == 2
    last = torch.load(run.last, weights_only=True)
    assert last["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("callbacks.early_stopping.patience=0",),
            "callbacks.early_stopping.patience must be a whole number of at lea",
        ),
        (
            ("trainer.limit_val_batches=0", "callbacks.best=null"),
            "callbacks.early_stopping needs validation: set train",
        ),
        (("callbacks.early_stopping.monitor=val/lss",), "monitor must be one of gap/.*, val/loss, .*, got val/lss"),
    ],
)
def test_settings_of_early_stopping_are_checked(art, tmp_path, words, message):
    with pytest.raises((UserError, InstantiationException)) as caught:
        _stops_early(art, tmp_path, "trainer.max_epochs=1", *words)
    assert re.search(message, str(user_error(caught.value)))


def test_progress_lines_tell_the_speed_and_the_time_left(caplog):
    caplog.set_level(logging.INFO)
    progress = PlainProgress(seconds=0)
    metrics = {"train/loss": torch.tensor(0.5), "train/lr": torch.tensor(1e-3), "memory/resident": torch.tensor(1.0)}
    trainer = SimpleNamespace(
        global_step=0, current_epoch=0, estimated_stepping_batches=1000, callback_metrics=metrics, callbacks=[]
    )
    trainer.accumulate_grad_batches, trainer.is_last_batch = 1, False
    progress.on_train_start(trainer, None)
    progress.started -= 60
    trainer.global_step = 10
    progress.on_train_batch_end(trainer, None, None, [range(30)], 9)
    assert caplog.messages == ["step 10 of 1,000, epoch 1, 0.5 images/s, train/loss 0.5, about 1 h 39 min left"]


def test_the_bar_reads_the_loss_when_it_is_drawn():
    metrics = {"train/loss": torch.tensor(0.5), "train/mse": torch.tensor(0.25), "val/psnr": torch.tensor(20.0)}
    trainer = SimpleNamespace(callback_metrics=metrics, progress_bar_metrics={}, loggers=[])
    assert ProgressBar().get_metrics(trainer, None) == {"train/loss": 0.5, "val/psnr": 20.0}


def test_memory_of_a_gpu_is_what_torch_counts(monkeypatch):
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2**30)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * 2**29)
    assert set(memory(torch.device("cpu"))) == {"memory/resident"}
    found = memory(torch.device("cuda"))
    assert (found["memory/allocated"], found["memory/reserved"]) == (1.0, 1.5)


def test_resident_memory_is_that_of_the_process():
    before = resident()
    kept = torch.ones(2**26)  # 256 MiB
    assert 0.9 * kept.nbytes < resident() - before < 1.5 * kept.nbytes


def _rates(art, run, *overrides):
    words = ("data.image_size=16", "loss=mse", "logger=csv", "trainer.log_every_n_steps=1", "callbacks.grids=null")
    train(small(art, run, *words, "optimizer.lr=1e-3", "trainer.max_steps=4", *overrides))
    with (run / "csv/metrics.csv").open() as stream:
        return [float(row["train/lr"]) for row in csv.DictReader(stream) if row["train/lr"]]


def test_the_learning_rate_falls_to_zero_over_the_last_part_of_a_run(art, tmp_path):
    rates = _rates(art, tmp_path / "run", "callbacks.decay.share=0.75", "scheduler=null")
    assert rates == pytest.approx([1e-3, 1e-3, 2e-3 / 3, 1e-3 / 3])


def test_the_fall_goes_beside_a_scheduler(art, tmp_path):
    painter = ("task=generation", "network=unet", "network.channels=[32]", "scheduler=null", "task.warmup=1")
    rates = _rates(art, tmp_path / "run", "callbacks.decay.share=0.5", *painter)
    assert rates == pytest.approx([0.5e-3, 1e-3, 1e-3, 0.5e-3])


def test_a_run_of_unknown_length_keeps_its_rate():
    endless = SimpleNamespace(estimated_stepping_batches=math.inf, global_step=7, callbacks=[])
    assert progress(endless) == 0


def test_the_fall_is_undone_where_it_is_not_asked_for(art, tmp_path):
    decay, group = Decay(share=0), {"lr": 1e-6}
    decay.load_state_dict({"factor": 1e-3})
    trainer = SimpleNamespace(accumulate_grad_batches=1, optimizers=[SimpleNamespace(param_groups=[group])])
    for _ in range(2):
        decay.on_train_batch_start(trainer, None, None, 0)
        assert group["lr"] == pytest.approx(1e-3)
    built = trainers.build(small(art, tmp_path, "callbacks.decay=null"))
    assert [one.share for one in built.callbacks if isinstance(one, Decay)] == [0]


def test_a_time_is_written_as_a_user_likes(art, tmp_path):
    for written in ("0:0:10:0", "00:00:10:00", "{minutes:10}"):
        built = trainers.build(small(art, tmp_path, f"trainer.max_time={written}"))
        assert time_left(built) == pytest.approx(600)
    with pytest.raises(UserError, match=r"trainer.max_time must be DD:HH:MM:SS, such as 00:01:30:00, got 00:10:00"):
        train(small(art, tmp_path / "run", "trainer.max_time=00:10:00"))


def test_early_stopping_waits_for_a_score_that_is_not_of_each_validation():
    score = PaintingScore(every_n_validations=2, n=2, steps=1, most_held_out=2)
    stopping = EarlyStopping(monitor="val/frechet", patience=2)
    metrics, loop = {"val/loss": torch.tensor(1.0)}, SimpleNamespace(epoch_loop=SimpleNamespace(batch_idx=0))
    trainer = SimpleNamespace(callbacks=[score], callback_metrics=metrics, fit_loop=loop, is_last_batch=True)
    trainer.sanity_checking, trainer.accumulate_grad_batches = False, 1
    score.waits = True
    stopping.on_validation_end(trainer, None)  # there is none yet
    metrics["val/frechet"] = torch.tensor(1.0)
    stopping.on_validation_end(trainer, None)  # that of an earlier validation
    assert stopping.wait_count == 0
    score.waits = False
    del metrics["val/frechet"]
    with pytest.raises(UserError, match="monitor must be one of val/loss, got val/frechet"):
        stopping.on_validation_end(trainer, None)


def test_a_run_that_time_ends_is_not_given_few_grids():
    for max_time, every in ((None, 500), ({"minutes": 10}, 200)):
        grids = SampleGrids(folder="samples", every_n_steps=200, pictures=2, max_side=32, max_grids=200)
        trainer = SimpleNamespace(callbacks=[Timer(max_time)], estimated_stepping_batches=100_000)
        trainer.datamodule = SimpleNamespace(preview=lambda count: None)
        grids.on_fit_start(trainer, None)
        assert grids.every_n_steps == every


@pytest.mark.parametrize(("kind", "source"), [(Generation, None), (Reconstruction, "held-out pictures")])
def test_a_grid_says_what_shows_through_in_it(tmp_path, kind, source):
    grids = SampleGrids(folder=str(tmp_path), every_n_steps=1, pictures=1, max_side=32, max_grids=1)
    grids._keep(SimpleNamespace(logger=None), Mock(spec=kind), [torch.zeros(1, 3, 16, 16)], 3)
    with Image.open(tmp_path / "step_0000003.png") as grid:
        said = grid.info["XML:com.adobe.xmp"]
    assert ("compositeWithTrainedAlgorithmicMedia" in said, f"<dc:source>{source}" in said) == (source is not None,) * 2


def test_a_codec_says_that_it_is_not_compiled(caplog):
    caplog.set_level(logging.INFO)
    config = {"trainer": {"max_epochs": 1, "max_steps": 1, "max_time": None}, "compile": "default"}
    data = SimpleNamespace(unchanging=None, batches_in_epoch=1)
    task = Mock(spec=Autoencoding, perceptual=None)
    trainers.cache_and_compile(config, task, data, torch.device("cpu"), batch_size=4)
    assert caplog.messages == ["compile=default is not used here: the training of a codec is not compiled"]


def _ended(caplog, monkeypatch, words, **more):
    """The commands that the report of an interrupted run proposes to carry it on."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(report, "given", lambda: words)
    trainer = SimpleNamespace(state=SimpleNamespace(finished=False), global_step=5, lightning_module=None)
    trainer.early_stopping_callbacks = trainer.checkpoint_callbacks = []
    config = {"task": {}, "trainer": {"max_steps": -1, "max_epochs": 9, "max_time": "00:00:10:00"}}
    report.finished(trainer, config, Path("runs/x/codec"), {}, **more)
    return [line.split("artdiff.train ")[1] for line in caplog.messages if "artdiff.train" in line]


@pytest.mark.parametrize(("is_last", "run"), [(True, "runs/x/codec"), (False, "runs/x")])
def test_an_interrupted_run_is_carried_on_by_what_was_typed(caplog, monkeypatch, is_last, run):
    typed = ["experiment=latent128", "trainer.max_time=00:01:00:00", "ckpt=other"]
    (line,) = _ended(caplog, monkeypatch, typed, is_last=is_last)
    assert line.startswith(f"experiment=latent128 trainer.max_time=00:01:00:00 ckpt={run}")
    caplog.clear()
    assert _ended(caplog, monkeypatch, [], is_last=is_last) == []


def test_the_gauge_is_silent_where_nothing_was_compared():
    scores = {"gap/relative": 0.5, "gap/val_loss": 1.5, "gap/train_loss": 1.0}
    trainer = SimpleNamespace(lightning_module=Mock(spec=Generation, compared_pictures=0))
    assert [*report._gauge(trainer, scores)] == []


def test_the_share_of_the_fall_is_checked():
    with pytest.raises(UserError, match="callbacks.decay.share must be a share from 0 to 1, got 2"):
        Decay(share=2)
