"""Kill a training at random moments, resume it each time, and compare its end with that of an undisturbed run:

    python benchmarks/killed_runs.py [--kills 50] [--experiment paint32] [--steps 200] [SETTING=VALUE …]

Each kill is a SIGKILL to the program and its child processes. The same command is then called again, with `ckpt=last`
once a checkpoint is saved. If a run ends before all kills are done, it is compared, and another one is started.
Weights, EMA weights, optimizer, schedules and counters must be equal bit for bit.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from artdiff.runs import Run

SMALL = (
    *("data.image_size=16", "data.batch_size=16", "network.channels=[16,32]", "network.cond_dim=32"),
    *("network.attention_resolutions=[]", "callbacks.grids=null", "trainer.accelerator=cpu"),
    *("callbacks.last.every_minutes=0.03", "callbacks.last.pause=0.5"),
)
"""Settings for steps of a few milliseconds and frequent checkpoints, so that kills hit every part of the program."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--experiment", default="paint32")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=12.0, help="most seconds from a start to its kill")
    asked, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("ARTDIFF_CACHE", f"{home}/cache")
        words = (f"experiment={asked.experiment}", *SMALL, f"trainer.max_steps={asked.steps}", *more)
        whole, killed = Path(home) / "whole", Path(home) / "killed"
        assert ended(start(whole, words), None) == 0, "the undisturbed run failed"
        chance, hits, saves, ends = random.Random(asked.seed), 0, 0, 0
        while True:
            before = saved(killed)
            code = ended(start(killed, words), chance.uniform(2.0, asked.longest) if hits < asked.kills else None)
            if code == -signal.SIGKILL:
                hits += 1
                saves += saved(killed) != before
                print(f"kill {hits}: saved was {saved(killed)}", flush=True)
            if code == -signal.SIGKILL and not Run(killed).metadata.get("finished"):
                continue
            if code not in (0, -signal.SIGKILL):
                sys.exit(f"resuming failed with exit code {code}:\n{killed.with_suffix('.log').read_text()[-2000:]}")
            same(whole, killed)
            ends += 1
            if hits == asked.kills:
                break
            print(f"ended after {hits} kills, equal to the undisturbed run; starting another one", flush=True)
            killed = killed.with_name(f"killed_{hits}")
        print(f"{hits} kills, {saves} of them after a new checkpoint; {ends} runs ended, equal bit for bit")


def start(run: Path, words: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    """Train in the folder `run`; resume what is saved there."""
    carried = ("ckpt=last",) if Run(run).has_saved else ()
    command = [sys.executable, "-m", "artdiff.train", *words, f"hydra.run.dir={run}", *carried]
    log = run.with_suffix(".log").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=run.parent)


def ended(running: "subprocess.Popen[bytes]", seconds: float | None) -> int:
    """Wait for the exit code; after `seconds` kill the process group."""
    try:
        return running.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        return running.wait()


def saved(run: Path) -> str:
    """The saved step of each stage, as text."""
    found = {}
    for path in sorted(run.glob("**/checkpoints/last.ckpt")):
        found[str(path.relative_to(run).parent.parent)] = torch.load(path, weights_only=True, mmap=True)["global_step"]
    return ", ".join(f"step {step} of {stage}" for stage, step in found.items()) or "nothing"


def same(whole: Path, killed: Path) -> None:
    """Exit with an error unless both runs ended in the same state."""
    one, other = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (whole, killed))
    for name in ("global_step", "epoch", "state_dict", "optimizer_states", "lr_schedulers", "artdiff"):
        if not equal(one[name], other[name]):
            sys.exit(f"{name} differs")


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


if __name__ == "__main__":
    main()
