"""Kills trainings while they decode a folder, then trains: are the pixels right? And two at once on a cold cache.

    python benchmarks/killed_builds.py DIR --kills 10

Each time the cache begins empty, a training is killed (SIGKILL) at a random moment of its decoding, a second one takes
a step on what was left, and every row of its map is compared with the file, decoded anew.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from artdiff.cli import plain
from artdiff.ingest import decode
from artdiff.settings import CONF

DECODING = re.compile(r"decoding ([\d,]+) of ([\d,]+) files")


def words(folder: Path, home: Path) -> list[str]:
    return [f"data.root={folder}", f"data.cache_dir={home}/cache", f"runs_dir={home}/runs", "trainer=cpu"]


def train(folder: Path, home: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "artdiff.train", "debug=two_steps", "trainer.max_steps=1", *words(folder, home)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def decoded(log: str) -> str:
    found = DECODING.search(log)
    return f"{found[1]} of {found[2]}" if found else "none"


def wrong_rows(folder: Path, home: Path) -> tuple[int, int]:
    """→ (rows of the map that are not what the file decodes to, rows)."""
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("train", overrides=["debug=two_steps", "run_dir=unused", *words(folder, home)])
    data = instantiate(plain(cfg)["data"])
    _, found = data.take_stock()
    pairs = ((one.row, (folder / one.path).read_bytes()) for one in found.used)
    wrong = sum(not np.array_equal(found.pixels[row], decode.decode(file, data.transform)[0]) for row, file in pairs)
    return wrong, len(found.used)


def journal(home: Path) -> int:
    return sum(path.stat().st_size for path in home.glob("cache/decoded/*.journal"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as place:
        home = Path(place, "whole")
        begun = time.perf_counter()
        whole = train(args.folder, home)
        _, log = whole.communicate()
        print(
            f"undisturbed: decoded {decoded(log)}, in {time.perf_counter() - begun:.1f} s, exit code {whole.returncode}"
        )
        listing = next(home.glob("cache/decoded/*.json"))
        journal_size = listing.stat().st_size  # about that of a whole journal
        bad = 0
        for kill in range(args.kills):
            home = Path(place, f"killed_{kill}")
            process = train(args.folder, home)
            until = rng.random() * journal_size
            while process.poll() is None and journal(home) <= until and not list(home.glob("cache/decoded/*.json")):
                time.sleep(0.001)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            left = [path.suffix for path in sorted(home.glob("cache/decoded/*"))]
            again = train(args.folder, home)
            _, log = again.communicate()
            wrong, rows = wrong_rows(args.folder, home)
            bad += wrong + (again.returncode != 0)
            print(f"killed at {until / journal_size:4.0%}, leaving {left}; ", end="")
            print(
                f"then decoded {decoded(log)}, exit code {again.returncode}, {wrong} of {rows:,} rows wrong", flush=True
            )
        home = Path(place, "two")
        both = [train(args.folder, home) for _ in range(2)]
        logs = [process.communicate()[1] for process in both]
        wrong, rows = wrong_rows(args.folder, home)
        maps = len(list(home.glob("cache/decoded/*.npy")))
        bad += wrong + (maps != 1) + sum(process.returncode != 0 for process in both)
        print(f"two at once: decoded {' and '.join(map(decoded, logs))}, exit codes ", end="")
        print(f"{[process.returncode for process in both]}, {maps} map, {wrong} of {rows:,} rows wrong")
    raise SystemExit(f"{bad} things went wrong" if bad else 0)


if __name__ == "__main__":
    main()
