"""A job that SLURM begins anew carries on the run that it had begun."""

import json
import os
import signal
import sys

import pytest
from conftest import in_process

from artdiff import Interrupted, slurm
from artdiff.runs import Run
from artdiff.training.last_checkpoint import LastCheckpoint

WORDS = ("debug=two_steps", "trainer=cpu", "data.image_size=16", "loss=mse", "callbacks.grids=null")


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "artdiff.train", "first"])


@pytest.fixture
def requeued(tmp_path, monkeypatch):
    """Calls of a stand-in for `scontrol`, which this machine lacks."""
    script, calls = tmp_path / "bin/scontrol", tmp_path / "calls"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return lambda: calls.read_text().splitlines() if calls.exists() else []


def test_the_number_of_a_job_is_the_same_when_it_is_begun_anew(monkeypatch):
    assert slurm.job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    assert slurm.job() == "9"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert slurm.job() == "7_2"  # its SLURM_JOB_ID is another one in each task


def test_a_job_that_is_told_to_end_goes_back_into_the_queue_and_carries_on(
    art, tmp_path, job, requeued, monkeypatch, caplog
):
    words, saved = (*WORDS, f"data.root={art}", "trainer.max_steps=4", f"runs_dir={tmp_path}/runs"), []
    save = LastCheckpoint._save

    def tell(self, trainer):
        save(self, trainer)
        saved.append(trainer.global_step)
        if len(saved) == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(LastCheckpoint, "_save", tell)
    every_step = "callbacks.last.every_minutes=1e-9"
    said = in_process("artdiff.train", *words, every_step, cwd=tmp_path, expect=128 + signal.SIGUSR1)
    assert requeued() == ["requeue 7"]
    assert "job 7 is back in the queue" in said
    (run,) = (tmp_path / "runs/baseline").iterdir()
    stopped = saved[-1]
    assert stopped < 4

    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    said = in_process("artdiff.train", *words, every_step, cwd=tmp_path)
    assert f"SLURM has restarted job 7: resuming its run in {run}" in caplog.text
    assert f"at step {stopped}" in said
    assert [path.name for path in (tmp_path / "runs/baseline").iterdir()] == [run.name]
    assert json.loads((run / "metadata.json").read_text())["steps"] == 4

    in_process("artdiff.train", *words, every_step, cwd=tmp_path)
    assert f"SLURM has restarted job 7, but its run is finished: {run}" in caplog.text


def begun(folder, **facts):
    folder.mkdir(parents=True)
    Run(folder).note(**facts)
    return folder


def test_only_the_run_that_this_command_began_in_this_job_is_carried_on(tmp_path, job, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    words = ["experiment=paint32"]
    begun(tmp_path / "runs/paint32/other_job", slurm={"job": "8", "command": sys.orig_argv})
    begun(tmp_path / "runs/paint32/other_command", slurm={"job": "7", "command": ["python", "other.py"]})
    begun(tmp_path / "runs/paint32/none")
    assert slurm.resuming(words) == words
    run = begun(tmp_path / "runs/paint32/ours", slurm={"job": "7", "command": sys.orig_argv})
    assert slurm.resuming(words) == [*words, "hydra.run.dir='runs/paint32/ours'"]  # it has saved nothing yet
    (run / "codec/checkpoints").mkdir(parents=True)
    (run / "codec/checkpoints/last.ckpt").touch()
    carried = [*words, "hydra.run.dir='runs/paint32/ours'", "ckpt='runs/paint32/ours'"]
    assert slurm.resuming(words) == carried
    for others in (["ckpt=last"], ["-m"], ["sweep=lr"]):
        assert slurm.resuming([*words, *others]) == [*words, *others]
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert slurm.resuming(words) == words


def test_its_own_checkpoint_takes_the_place_of_the_one_it_began_with(tmp_path, job, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    words = ["experiment=paint32", "ckpt=runs/paint32/earlier"]
    assert slurm.resuming(words) == words
    run = begun(tmp_path / "runs/paint32/ours", slurm={"job": "7", "command": sys.orig_argv})
    assert slurm.resuming(words) == [*words, "hydra.run.dir='runs/paint32/ours'"]  # it has saved nothing yet
    (run / "checkpoints").mkdir()
    (run / "checkpoints/last.ckpt").touch()
    own = ["hydra.run.dir='runs/paint32/ours'", "ckpt='runs/paint32/ours'"]
    assert slurm.resuming(words) == ["experiment=paint32", *own]


def test_a_job_goes_back_into_the_queue_also_before_it_trains(art, tmp_path, job, requeued, monkeypatch):
    before = signal.getsignal(signal.SIGUSR1)

    def told(settings):
        signal.raise_signal(signal.SIGUSR1)  # while a large folder is decoded, say

    monkeypatch.setattr("artdiff.train._train", told)
    words = (*WORDS, f"data.root={art}", f"runs_dir={tmp_path}/runs")
    said = in_process("artdiff.train", *words, cwd=tmp_path, expect=128 + signal.SIGUSR1)
    assert requeued() == ["requeue 7"]
    assert "job 7 is back in the queue" in said
    assert signal.getsignal(signal.SIGUSR1) == before


def test_only_the_process_of_the_job_itself_is_interrupted(job, monkeypatch):
    with slurm.interruptible():
        stop, ours = signal.getsignal(signal.SIGUSR1), os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: ours + 1)
        stop(signal.SIGUSR1, None)  # of a process that loads pictures
        monkeypatch.undo()
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)  # on its way back into the queue it is left alone


def test_a_folder_of_the_users_choice_is_found_as_well(tmp_path, job, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    run = begun(tmp_path / "mine", slurm={"job": "7", "command": sys.orig_argv})
    assert slurm.resuming([f"run_dir={run}", "seed=1"]) == ["seed=1", f"hydra.run.dir='{run}'"]


def test_a_job_that_cannot_be_put_back_is_warned_of(job, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    slurm.requeue()
    assert "job 7 is not put back into the queue: scontrol was not found" in caplog.text
    script = tmp_path / "scontrol"
    script.write_text("#!/bin/sh\necho Not allowed >&2\nexit 1\n")
    script.chmod(0o755)
    slurm.requeue()
    assert "job 7 is not put back into the queue: Not allowed" in caplog.text


def test_an_interruption_says_by_which_signal():
    assert Interrupted(15).number == 15
    assert isinstance(Interrupted(15), KeyboardInterrupt)
