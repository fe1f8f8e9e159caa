"""A training on two devices sees what a training on one sees, and either carries on the other."""

import logging
import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import command_line, in_process, small, train
from torch.distributed.device_mesh import init_device_mesh

import artdiff
from artdiff import UserError
from artdiff.data.loader import ShuffledOrder, Turn, chance
from artdiff.ranks import Ranks, Share, rank, started_together
from artdiff.sharding import is_sharded, shard, sharded_like, whole
from artdiff.training.trainer import GROUP_VARIABLES

pytestmark = pytest.mark.slow

PAINTS = ("task=generation", "network=unet", "network.channels=[16,32]", "network.cond_dim=16", "scheduler=null")
WORDS = (*PAINTS, "data.image_size=16", "loss=mse", "callbacks.grids=null", "data.batch_size=8", "data.flip=0.5",
         "data.val_fraction=0.2",
         "trainer.precision=32-true", "task.label_dropout=0.5")  # fmt: skip
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
SHARED_OUT = ("trainer=fsdp", *TWO[1:])


@pytest.mark.parametrize(("length", "batch_size"), [(40, 8), (43, 8), (41, 8), (3, 4), (1, 4)])
@pytest.mark.parametrize("world", [2, 4])
def test_the_ranks_share_every_batch(length, batch_size, world):
    (alone,) = served(length, batch_size, 1)
    ranks = served(length, batch_size, world)
    assert len({len(batches) for batches in ranks}) == 1  # or they would wait for each other for ever
    for number, every in enumerate(alone):
        parts = [batches[number] for batches in ranks]
        counting = [part for part in parts if part[0].share.counted]
        assert [turn.picture for turn in every] == woven([[turn.picture for turn in part] for part in counting])
        assert [turn.position for turn in every] == woven([[turn.position for turn in part] for part in counting])
        assert sum(part[0].share.counted for part in parts) == len(every)
        assert {part[0].share.total for part in parts} == {len(every)}


def served(length, batch_size, world):
    """The batches of an epoch that each rank gets."""
    found = []
    for number in range(world):
        order = ShuffledOrder(length, 0, batch_size, Ranks(number, world))
        turns = list(order)
        assert len(turns) == len(order)
        own = batch_size // world
        found.append([turns[first : first + own] for first in range(0, len(turns), own)])
    return found


def woven(parts):
    longest = max(len(part) for part in parts)
    return [part[place] for place in range(longest) for part in parts if place < len(part)]


def test_an_epoch_goes_on_where_it_stopped_on_any_number_of_ranks():
    order = ShuffledOrder(43, 0, 8, Ranks(1, 2))
    every = list(order)
    order.start = 16
    assert list(order) == every[8:]


def test_the_chance_of_a_picture_does_not_depend_on_the_ranks():
    turns = [Turn(0, 3, position, Share(5, 10)) for position in range(10)]
    assert (chance(7, turns)[1::2] == chance(7, turns[1::2])).all()


def test_processes_are_numbered_by_whoever_starts_them(monkeypatch):
    assert rank() == 0
    assert not started_together()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank() == 1
    assert not started_together()
    monkeypatch.setenv("SLURM_PROCID", "2")
    assert not started_together()
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert rank() == 2
    assert started_together()
    monkeypatch.setenv("RANK", "3")
    assert rank() == 3


def test_what_is_typed_in_a_shell_of_slurms_is_none_of_its_processes(monkeypatch):
    """`srun --pty bash`: Lightning starts the processes, which have the shell's number from SLURM."""
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank() == 1
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")
    assert not started_together()
    assert rank() == 1


def words(art, run, *more):
    return ("debug=two_steps", "trainer=cpu", f"data.root={art}", f"hydra.run.dir={run}", *WORDS, *more)


def saved(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def assert_close(found, expected, atol=1e-5):
    assert found["global_step"] == expected["global_step"]
    assert found["artdiff"]["seen"] == expected["artdiff"]["seen"]
    for name, value in expected["state_dict"].items():
        assert torch.allclose(found["state_dict"][name], value, rtol=1e-3, atol=atol), name


@pytest.fixture(scope="module")
def alone(art, tmp_path_factory):
    """A run of ten steps on one device, two epochs."""
    return train(small(art, tmp_path_factory.mktemp("alone") / "run", *WORDS, "trainer.max_steps=10"))


@pytest.fixture(scope="module")
def together(art, tmp_path_factory):
    """The same on two, and what it printed."""
    run = tmp_path_factory.mktemp("together") / "run"
    printed = command_line("artdiff.train", *words(art, run, *TWO, "trainer.max_steps=10"), cwd=run.parent)
    return run, printed


def test_two_ranks_train_what_one_trains(alone, together):
    run, printed = together
    assert "a batch: 8 pictures, 4 on each of 2 devices" in printed
    assert_close(saved(run), saved(alone.folder))


def test_scores_are_of_all_held_out_pictures(alone, together):
    scores = artdiff.Run(together[0]).metadata["scores"]
    assert set(scores) == set(alone.metadata["scores"])
    for name, value in alone.metadata["scores"].items():
        assert scores[name] == pytest.approx(value, rel=1e-3), name


def test_one_process_speaks_and_writes(alone, together):
    run, printed = together
    assert printed.count("run folder:") == 1
    assert printed.count("done at step 10") == 1
    assert "Warning" not in printed
    found = {path.relative_to(run) for path in run.rglob("*") if "events" not in path.name}
    expected = {path.relative_to(alone.folder) for path in alone.folder.rglob("*") if "events" not in path.name}
    assert {str(path) for path in found - expected} <= {".hydra", "train.log", *map(str, hydra(run))}
    assert len([*run.glob("events*")]) == len([*alone.folder.glob("events*")])
    assert artdiff.load(run, device="cpu").paint(n=1, label="truchet", steps=2)


def hydra(run):
    return [path.relative_to(run) for path in run.glob(".hydra/*")]


def test_a_run_on_two_ranks_is_carried_on_by_one_and_the_other_way_round(art, alone, tmp_path):
    command_line("artdiff.train", *words(art, tmp_path / "two", *TWO, "trainer.max_steps=7"), cwd=tmp_path)
    one = train(small(art, tmp_path / "one", *WORDS, "trainer.max_steps=10", f"ckpt={tmp_path}/two"))
    assert_close(saved(one.folder), saved(alone.folder))
    train(small(art, tmp_path / "first", *WORDS, "trainer.max_steps=3"))
    back = words(art, tmp_path / "back", *TWO, "trainer.max_steps=10", f"ckpt={tmp_path}/first")
    command_line("artdiff.train", *back, cwd=tmp_path)
    assert_close(saved(tmp_path / "back"), saved(alone.folder))


def test_torchrun_starts_the_processes_as_well(art, alone, tmp_path):
    launched = ("torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "artdiff.train")
    command_line(*launched, *words(art, tmp_path / "run", *TWO, "trainer.max_steps=10"), cwd=tmp_path)
    assert_close(saved(tmp_path / "run"), saved(alone.folder))


def test_a_signal_to_the_first_process_saves_and_ends_both(art, tmp_path):
    run = tmp_path / "run"
    endless = ("trainer.max_steps=-1", "trainer.log_every_n_steps=1", "callbacks.last.pause=0")
    command = [sys.executable, "-m", "artdiff.train", *words(art, run, *TWO, *endless)]
    with subprocess.Popen(command, cwd=tmp_path, text=True, stderr=subprocess.PIPE) as running:
        for line in running.stderr:
            if line.startswith("step "):
                break
        running.send_signal(signal.SIGTERM)
        printed = running.communicate(timeout=120)[1]
    assert running.returncode == 128 + signal.SIGTERM, printed
    assert "interrupted at step" in printed
    assert "Traceback" not in printed
    assert saved(run)["global_step"] > 0


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_several_stages_run_on_two_ranks(art, tmp_path, strategy):
    from test_stages import TINY

    more = ("trainer.max_steps=2", "task.warmup=1", "trainer.precision=32-true", "data.val_fraction=0.2")
    ranks = (f"trainer={strategy}", "trainer.accelerator=cpu", "trainer.devices=2")
    given = (f"data.root={art}", "debug=two_steps", f"hydra.run.dir={tmp_path}/run")
    tiny = [word for word in TINY if word != "callbacks.grids=null"]
    printed = command_line("artdiff.train", *given, *tiny, *more, *ranks, cwd=tmp_path)
    assert printed.count("stage 3 of 3: paint") == 1
    assert len([*(tmp_path / "run").glob("**/samples/*.png")]) == 3
    assert artdiff.load(tmp_path / "run", device="cpu").paint(n=1, label="truchet", steps=2)


def test_shared_out_weights_learn_what_those_of_one_device_learn(art, tmp_path):
    """From one device to two that share out weights and averages, and back."""
    more = (*WORDS, "optimizer=muon")
    alone = train(small(art, tmp_path / "alone", *more, "trainer.max_steps=10"))
    train(small(art, tmp_path / "first", *more, "trainer.max_steps=3"))
    then = words(art, tmp_path / "then", *more, *SHARED_OUT, "trainer.max_steps=7", f"ckpt={tmp_path}/first")
    printed = command_line("artdiff.train", *then, cwd=tmp_path)
    assert "4 on each of 2 devices" in printed
    assert "Warning" not in printed
    assert artdiff.load(tmp_path / "then", device="cpu").paint(n=1, label="truchet", steps=2)
    last = train(small(art, tmp_path / "last", *more, "trainer.max_steps=10", f"ckpt={tmp_path}/then"))
    assert_close(saved(last.folder), saved(alone.folder), atol=5e-4)  # Muon turns in bfloat16
    ours, theirs = (saved(run.folder)["optimizer_states"][0] for run in (last, alone))
    assert ours["param_groups"] == theirs["param_groups"]
    for number, kept in theirs["state"].items():
        for name, value in kept.items():
            assert torch.allclose(ours["state"][number][name], value, rtol=1e-2, atol=1e-3), (number, name)


def test_weights_are_shared_out_and_put_together(tmp_path):
    torch.distributed.init_process_group("gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0,
                                         world_size=1)  # fmt: skip
    try:
        network = torch.nn.Module()
        network.layers = torch.nn.ModuleList([torch.nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)])
        before = network.layers[0].weight.detach().clone()
        assert not is_sharded(network)
        shard(network, init_device_mesh("cpu", (1,)))
        weight = network.layers[0].weight
        assert is_sharded(network)
        assert whole(weight).equal(before)
        assert sharded_like(before, weight).to_local().is_contiguous()
        assert whole(sharded_like(before, weight)).equal(before)
        assert sharded_like(before, before) is before
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("data.batch_size=7",), "must be a multiple of 2, got 7; set data.batch_size=8"),
        (("trainer.devices=0",), "trainer.devices must be auto or a whole number of at least 1, got 0"),
        (("trainer=fsdp", "compile=default"), "compile=default cannot be used with trainer=fsdp"),
        (("trainer=fsdp", "trainer.precision=16-mixed"), "precision=16-mixed cannot be used with trainer=fsdp"),
        (("trainer.devices=some",), "trainer.devices must be auto or a whole number of at least 1, got some"),
    ],
)
def test_what_cannot_be_shared_is_refused(art, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        train(small(art, tmp_path, *WORDS, *TWO, *more))


def test_a_sweep_over_several_processes_is_refused(art, tmp_path):
    swept = ("-m", "optimizer.lr=1e-3,1e-4", f"data.root={art}", *TWO)
    printed = in_process("artdiff.train", *swept, cwd=tmp_path, expect=1)
    assert printed.count("a sweep cannot start several processes for each job") >= 2


def test_processes_that_start_together_must_know_the_folder(art, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    printed = in_process("artdiff.train", f"data.root={art}", *TWO, cwd=tmp_path, expect=1)
    assert "must know the run's folder: give run_dir=DIR" in printed
    with pytest.raises(UserError, match="must know the run's folder: give run_dir=DIR"):
        artdiff.train("paint32", data={"root": art}, trainer={"devices": 2, "accelerator": "cpu"})


def test_other_processes_say_only_what_is_wrong(art, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    try:
        printed = in_process("artdiff.train", "debug=two_steps", f"data.root={art}", "trainer=cpu", "data.batch_size=0",
                             "hydra.run.dir=run", cwd=tmp_path, expect=1)  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    assert printed == "data.batch_size must be a whole number of at least 1, got 0\n"
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_training_on_one_device_leaves_nothing_of_its_group(art, tmp_path, strategy):
    """Its port would be that of the next group, and a program started from here would think that it belongs to it."""
    before = {name: os.environ.get(name) for name in GROUP_VARIABLES}
    train(small(art, tmp_path / "run", *WORDS, f"trainer={strategy}", *TWO[1:2], "trainer.devices=1"))
    assert not torch.distributed.is_initialized()
    assert {name: os.environ.get(name) for name in GROUP_VARIABLES} == before
