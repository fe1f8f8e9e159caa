"""A run that is stopped and resumed ends with the same weights, bit for bit, as one that never stopped."""

import json
import os
import shutil
import signal

import pytest
import torch
from conftest import in_process, small, train

from artdiff import UserError, runs
from artdiff.runs import Run
from artdiff.tasks import Reconstruction
from artdiff.training.last_checkpoint import LastCheckpoint

STEPS_PER_EPOCH = 5


def _train(art, run, *overrides):
    every_epoch = ("callbacks.every_ten_epochs.every_n_epochs=1", "callbacks.grids=null")
    decay = ("scheduler.step_size=1", "scheduler.gamma=0.5")
    size = ("data.batch_size=8", "data.image_size=16", "loss.perceptual.layer=relu1_1")
    train(small(art, run, *size, *every_epoch, *decay, *overrides))
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def _best(checkpoint):
    callbacks = checkpoint["callbacks"]
    return next(state["best_model_score"] for state in callbacks.values() if state.get("monitor") == "val/loss")


def _assert_equal(resumed, whole):
    """Weights, optimizer and schedule are equal."""
    assert resumed["global_step"] == whole["global_step"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    assert whole["lr_schedulers"] == resumed["lr_schedulers"]
    for name, state in whole["optimizer_states"][0]["state"].items():
        assert all(
            torch.equal(value, resumed["optimizer_states"][0]["state"][name][key]) for key, value in state.items()
        )


@pytest.fixture(scope="module")
def uninterrupted(art, tmp_path_factory):
    return _train(art, tmp_path_factory.mktemp("whole"), "trainer.max_steps=9")


@pytest.fixture(scope="module")
def stopped(art, tmp_path_factory):
    """The folder of a run that stopped after some steps, in the middle of an epoch or at its end; trained once."""
    folders = {}

    def after(steps):
        if steps not in folders:
            folders[steps] = tmp_path_factory.mktemp("part")
            part = _train(art, folders[steps], f"trainer.max_steps={steps}")
            assert part["global_step"] == steps
            assert part["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] == steps
        return folders[steps]

    return after


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "checkpoint"),
    [
        (STEPS_PER_EPOCH - 2, "last"),
        (STEPS_PER_EPOCH - 2, "best"),
        (STEPS_PER_EPOCH, "last"),
        (STEPS_PER_EPOCH, "best"),
        (STEPS_PER_EPOCH, "epoch_0000"),
        (STEPS_PER_EPOCH + 2, "last"),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(art, uninterrupted, stopped, tmp_path, stop, checkpoint):
    ckpt = stopped(stop) / f"checkpoints/{checkpoint}.ckpt"
    _assert_equal(_train(art, tmp_path, "trainer.max_steps=9", f"ckpt={ckpt}"), uninterrupted)


def test_a_run_with_muon_resumes_exactly(art, tmp_path):
    muon = ("optimizer=muon", f"trainer.max_steps={STEPS_PER_EPOCH + 3}")
    whole = _train(art, tmp_path / "whole", *muon)
    _train(art, tmp_path / "part", *muon, f"trainer.max_steps={STEPS_PER_EPOCH - 2}")
    ckpt = tmp_path / "part/checkpoints/last.ckpt"
    _assert_equal(_train(art, tmp_path / "resumed", *muon, f"ckpt={ckpt}"), whole)


def test_a_run_killed_within_an_epoch_resumes_exactly(art, uninterrupted, tmp_path, monkeypatch):
    """From the checkpoint that was saved by time; here it is kept aside when two of the steps are done."""
    save = LastCheckpoint._save

    def kept(self, trainer):
        save(self, trainer)
        if trainer.global_step == 2:
            shutil.copy(self.path, tmp_path / "killed.ckpt")

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "_save", kept)
        _train(art, tmp_path / "killed", "trainer.max_steps=4", "callbacks.last.every_minutes=1e-9")
    resumed = _train(art, tmp_path / "resumed", "trainer.max_steps=9", f"ckpt={tmp_path}/killed.ckpt")
    _assert_equal(resumed, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, STEPS_PER_EPOCH])
def test_a_run_with_accumulated_gradients_resumes_exactly(art, tmp_path, stop):
    accumulate = ("data.batch_size=4", "+trainer.accumulate_grad_batches=2")  # the last step of an epoch has one batch
    whole = _train(art, tmp_path / "whole", *accumulate, "trainer.max_steps=7")
    part = _train(art, tmp_path / "part", *accumulate, f"trainer.max_steps={stop}")
    assert part["global_step"] == stop
    ckpt = tmp_path / "part/checkpoints/last.ckpt"
    _assert_equal(_train(art, tmp_path / "resumed", *accumulate, "trainer.max_steps=7", f"ckpt={ckpt}"), whole)


def test_a_run_with_no_steps_left_is_refused(art, stopped, tmp_path):
    with pytest.raises(UserError, match=f"no step to take after step {STEPS_PER_EPOCH}"):
        _train(art, tmp_path, f"trainer.max_steps={STEPS_PER_EPOCH}", f"ckpt={stopped(STEPS_PER_EPOCH)}")


def test_a_finished_run_stays_finished_when_it_is_refused(art, tmp_path):
    words = (tmp_path, "trainer.max_steps=2")
    _train(art, *words)
    for _ in range(2):
        with pytest.raises(UserError, match="no step to take after step 2"):
            _train(art, *words, "ckpt=last")
    assert json.loads((tmp_path / "metadata.json").read_text())["finished"]


def test_the_best_score_is_remembered_in_the_same_folder(art, tmp_path):
    part = _train(art, tmp_path, "trainer.max_steps=5")
    assert _best(part) < float("inf")
    worse = _train(art, tmp_path, "trainer.max_steps=6", "ckpt=last", "loss.mse_weight=1000")
    assert _best(worse) == _best(part)
    assert torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)["global_step"] == 5


def test_scores_are_kept_until_a_run_that_is_carried_on_validates(art, tmp_path, monkeypatch):
    _train(art, tmp_path, f"trainer.max_steps={STEPS_PER_EPOCH}")
    known = Run(tmp_path).metadata["scores"]
    assert "best val/loss" in known
    losses = Reconstruction.losses

    def interrupted(self, batch):
        if self.global_step == STEPS_PER_EPOCH + 1:
            signal.raise_signal(signal.SIGINT)
        return losses(self, batch)

    monkeypatch.setattr(Reconstruction, "losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _train(art, tmp_path, "trainer.max_steps=9", "ckpt=last")
    assert Run(tmp_path).metadata["steps"] > STEPS_PER_EPOCH
    assert Run(tmp_path).metadata["scores"] == known


def test_a_finished_run_is_not_overwritten(art, stopped):
    with pytest.raises(UserError, match="holds a run already: resume it with ckpt=last"):
        _train(art, stopped(STEPS_PER_EPOCH), "trainer.max_steps=1")


def test_a_run_cannot_be_resumed_with_other_settings(art, stopped):
    for other in ("optimizer.lr=5e-4", "experiment=article"):
        with pytest.raises(UserError, match="a resumed run must keep its settings"):
            _train(art, stopped(STEPS_PER_EPOCH), "trainer.max_steps=9", "ckpt=last", other)


def test_a_run_with_classes_is_not_carried_on_without(art, tmp_path):
    paint = ("task=generation", "network=unet", "network.channels=[16,32]", "network.cond_dim=16")
    _train(art, tmp_path / "run", *paint, "trainer.max_steps=1", "scheduler=null")
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in art.rglob("*.jpg"):
        shutil.copy(path, flat)
    words = ("trainer.max_steps=2", "scheduler=null", f"data.root={flat}", f"ckpt={tmp_path}/run")
    with pytest.raises(UserError, match=r"was trained with classes \['colour_field', .*\], got \[\]; a resumed run"):
        _train(art, tmp_path / "other", *paint, *words)


def has_saved(folder, *, at=0, **facts):
    """A run that looks as if it had saved a checkpoint at this time."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/last.ckpt").touch()
    os.utime(folder / "checkpoints/last.ckpt", (at, at))
    Run(folder).note(**facts)
    return folder


@pytest.mark.parametrize("stages", [[""], ["codec", "refine", ""]])
def test_a_run_is_not_overwritten_by_one_that_carries_on_another(tmp_path, stages):
    other = has_saved(tmp_path / "other")
    assert runs.to_resume(str(other), tmp_path / "longer", stages=stages) is not None
    longer = has_saved(tmp_path / "longer")
    with pytest.raises(UserError, match="longer holds a run already: resume it with ckpt=last"):
        runs.to_resume(str(other), longer, stages=stages)
    for own in ("last", str(longer), str(longer / runs.LAST)):
        assert runs.to_resume(own, longer, stages=stages).is_relative_to(longer)
    assert runs.to_resume(str(other), longer, stages=stages, is_first=False)  # the first process may have saved there


def test_the_newest_run_is_no_stage_of_one(tmp_path):
    run = has_saved(tmp_path / "paint32/done", at=1)
    stage = has_saved(tmp_path / "latent128/begun/codec", at=2, is_stage=True)
    found = [runs.find_checkpoint("last", newest_in=tmp_path, prefer=runs.BEST, name=name) for name in ("ckpt", "init")]
    assert found == [run / runs.LAST] * 2
    assert runs.find_checkpoint("last", newest_in=tmp_path, prefer=runs.LAST, name="codec") == stage / runs.LAST
    assert runs.to_resume("last", tmp_path / "latent128/new", stages=["codec", ""]) == stage.parent


def test_a_run_that_was_killed_in_its_last_validation_is_validated(art, stopped, tmp_path):
    shutil.copytree(stopped(STEPS_PER_EPOCH - 2), tmp_path / "run")
    saved = tmp_path / "run/checkpoints"
    (saved / "last-1.ckpt").replace(saved / "last.ckpt")  # the one from before the validation
    (saved / "best.ckpt").unlink()
    (tmp_path / "run/metadata.json").write_text('{"finished": false}')
    last = _train(art, tmp_path / "run", f"trainer.max_steps={STEPS_PER_EPOCH - 2}", "ckpt=last")
    told = Run(tmp_path / "run").metadata
    assert told["finished"]
    assert told["scores"]["best val/loss"] == told["scores"]["val/loss"] == pytest.approx(float(_best(last)))
    before = Run(stopped(STEPS_PER_EPOCH - 2)).metadata["scores"]
    assert told["scores"]["val/loss"] == pytest.approx(before["val/loss"])
    assert (saved / "best.ckpt").exists()


def test_other_pictures_start_in_a_new_order(art, stopped, tmp_path, caplog):
    ckpt = stopped(STEPS_PER_EPOCH - 2)
    _train(art, tmp_path, f"trainer.max_steps={STEPS_PER_EPOCH}", f"ckpt={ckpt}", "seed=1")
    assert "data.seed was 0, now 1: the order of pictures and the epoch start again" in caplog.text


def test_the_last_step_is_validated_whatever_the_interval(art, tmp_path):
    last = _train(art, tmp_path, "trainer.max_steps=3", "trainer.check_val_every_n_epoch=50")
    assert _best(last) < float("inf")


def test_last_is_the_newest_run_beside_this_one(art, tmp_path):
    for name, elsewhere in (("a", "runs"), ("b", "runs"), ("c", "other")):
        _train(art, tmp_path / elsewhere / name, "trainer.max_steps=1")
    _train(art, tmp_path / "runs/d", "trainer.max_steps=2", "ckpt=last")
    metadata = json.loads((tmp_path / "runs/d/metadata.json").read_text())
    assert metadata["carried_on_from"] == str(tmp_path / "runs/b/checkpoints/last.ckpt")


@pytest.mark.parametrize(
    ("stop", "batch_size", "steps"),
    [
        (3, 4, 3 + 10),  # the first epoch begins anew
        (3, 16, 3 + 3),
        (5, 4, 5 + 10),  # the first epoch had ended
        (5, 16, 5 + 3),
    ],
)
def test_another_batch_size_does_not_cut_an_epoch_short(art, stopped, tmp_path, caplog, stop, batch_size, steps):
    epochs = ("trainer.max_steps=-1", f"trainer.max_epochs={1 if stop < STEPS_PER_EPOCH else 2}")
    ckpt = stopped(stop) / "checkpoints/last.ckpt"
    other = _train(art, tmp_path, f"ckpt={ckpt}", f"data.batch_size={batch_size}", *epochs)
    assert other["global_step"] == steps
    assert f"data.batch_size was 8, now {batch_size}: the order of pictures and the epoch start again" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut off", "a wrong byte", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(art, uninterrupted, tmp_path, caplog, damage):
    every_step = ("callbacks.last.every_minutes=1e-9", "trainer.limit_val_batches=0", "callbacks.best=null")
    whole = _train(art, tmp_path / "whole", "trainer.max_steps=6", *every_step)
    _train(art, tmp_path / "run", "trainer.max_steps=4", *every_step)
    last = tmp_path / "run/checkpoints/last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes({"cut off": content[:-100], "a wrong byte": content, "empty": b""}[damage])
    resumed = _train(art, tmp_path / "run", "trainer.max_steps=6", *every_step, "ckpt=last")
    assert f"{last} is damaged: using last-1.ckpt" in caplog.text
    _assert_equal(resumed, whole)


def test_as_many_checkpoints_are_kept_as_were_asked_for(art, tmp_path):
    words = ("callbacks.last.every_minutes=1e-9", "callbacks.last.keep=3", "trainer.limit_val_batches=0")
    _train(art, tmp_path, *words, "trainer.max_steps=4", "callbacks.best=null")
    steps = {
        path.name: torch.load(path, weights_only=True)["global_step"] for path in tmp_path.glob("checkpoints/last*")
    }
    assert steps == {"last.ckpt": 4, "last-1.ckpt": 3, "last-2.ckpt": 2}


def test_if_all_checkpoints_are_damaged_the_last_one_is_named(art, tmp_path):
    _train(art, tmp_path, "trainer.max_steps=2")
    for path in tmp_path.glob("checkpoints/*.ckpt"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"last.ckpt cannot be read as a checkpoint"):
        _train(art, tmp_path, "trainer.max_steps=3", "ckpt=last")


def test_a_run_with_loader_processes_resumes_exactly(art, uninterrupted, tmp_path):
    workers = ("data.num_workers=1",)
    _train(art, tmp_path, *workers, f"trainer.max_steps={STEPS_PER_EPOCH - 2}")
    _assert_equal(_train(art, tmp_path, *workers, "trainer.max_steps=9", "ckpt=last"), uninterrupted)


def test_a_run_killed_while_it_validated_resumes_exactly(art, uninterrupted, tmp_path, monkeypatch):
    """What is on the disk during the second validation is kept aside."""
    validate = Reconstruction.validation_step

    def kept(self, batch, batch_idx):
        if self.trainer.current_epoch == 1:
            shutil.copy(tmp_path / "killed/checkpoints/last.ckpt", tmp_path / "killed.ckpt")
        validate(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Reconstruction, "validation_step", kept)
        _train(art, tmp_path / "killed", "trainer.max_steps=9", "callbacks.last.pause=0")
    resumed = _train(art, tmp_path / "resumed", "trainer.max_steps=11", f"ckpt={tmp_path}/killed.ckpt")
    _assert_equal(resumed, _train(art, tmp_path / "whole", "trainer.max_steps=11"))


def test_ctrl_c_before_the_first_step_ends_as_ctrl_c_does(art, tmp_path, monkeypatch):
    def interrupted(task):
        raise KeyboardInterrupt

    monkeypatch.setattr(Reconstruction, "configure_optimizers", interrupted)
    words = ("debug=two_steps", "trainer=cpu", f"data.root={art}", "data.image_size=16", "loss=mse")
    said = in_process("artdiff.train", *words, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path, expect=130)
    assert said.strip().endswith("interrupted")
