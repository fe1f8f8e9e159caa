"""How long it takes until the first training step, and until an error in the settings is reported.

    python benchmarks/start_up.py --count 10000 --keep DIR

Each figure is the median of some runs of a whole command, from its start: `--help`, an error in the settings, and the
first step of a second training on an unchanged folder of `--count` small pictures, which this script makes. Imports are
timed by Python's -X importtime in a separate run, since that is slower.
"""

import argparse
import re
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from many_files import make
from measure import timed

TRAIN = [sys.executable, "-m", "artdiff.train"]
PACKAGES = ("torch", "torchvision", "torchmetrics", "lightning", "hydra", "omegaconf", "numpy", "PIL", "tensorboard")


def imports(log: Path) -> dict[str, float]:
    """Import time of each package in seconds."""
    seconds: dict[str, float] = defaultdict(float)
    for own, name in re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)", log.read_text(), re.MULTILINE):
        package = name.partition(".")[0]
        seconds[package if package in PACKAGES else "all others"] += int(own) / 1e6
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="files")
    parser.add_argument("--keep", type=Path, help="folder to make the files in, and to keep them for the next time")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        own = Path(name)
        root, log = (args.keep or own) / str(args.count), own / "log"
        if not root.exists():
            make(root, args.count)
        helps = statistics.median(timed([*TRAIN, "--help"], log).seconds for _ in range(args.runs))
        wrong = [*TRAIN, "data.image_size=33", f"runs_dir={own}/runs"]
        mistakes = statistics.median(timed(wrong, log, expect=1).seconds for _ in range(args.runs))
        print(f"--help: {helps:.2f} s; a mistake: {mistakes:.2f} s")
        words = [f"data.root={root}", f"data.cache_dir={own}/cache", f"runs_dir={own}/runs", "trainer=cpu"]
        words += ["data.image_size=32", "loss.perceptual.weights=random", "trainer.max_steps=1"]
        words += ["+callbacks.clock._target_=step_clock.StepClock", "+callbacks.clock.warm=0"]
        train = [*TRAIN, *words]

        def first_step(*python: str) -> dict[str, float]:
            return timed([train[0], *python, *train[1:]], log).figures

        cold = first_step()
        warm = [first_step() for _ in range(args.runs)]
        begun, ended = (statistics.median(one[name] for one in warm) for name in ("begun", "ended"))
        print(f"{args.count:,} files, first training: its first step is done after {cold['ended']:.1f} s")
        print(f"{args.count:,} files, second training: begun after {begun:.1f} s, done after {ended:.1f} s")
        first_step("-X", "importtime")
        found = imports(log)
        each = ", ".join(f"{name} {took:.2f}" for name, took in found.items())
        print(f"imports, {sum(found.values()):.1f} s in all: {each}")


if __name__ == "__main__":
    main()
