"""Kill trainings while they decode a folder: is the cache correct afterwards? Also start two at once on a cold cache.

    python benchmarks/killed_builds.py DIR --kills 10

Each time the cache starts empty. A training is killed (SIGKILL) at a random moment of its decoding, and a second one
takes a step with the cache that is left. Then every row is compared with the file, decoded again.
"""

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from hydra.utils import instantiate

from artdiff.cli import composed
from artdiff.ingest import decode

DECODING = re.compile(r"decoding ([\d,]+) of ([\d,]+) files")


def words(folder: Path, home: Path) -> list[str]:
    return [f"data.root={folder}", f"data.cache_dir={home}/cache", f"runs_dir={home}/runs", "trainer=cpu"]


def train(folder: Path, home: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "artdiff.train", "debug=two_steps", "trainer.max_steps=1", *words(folder, home)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def decoded(log: str) -> str:
    found = DECODING.search(log)
    return f"{found[1]} of {found[2]}" if found else "none"


def wrong_rows(folder: Path, home: Path) -> tuple[int, int, int]:
    """The number of rows that differ from their decoded file, the number of pictures, and the number of all rows."""
    config = composed("train", ["debug=two_steps", "run_dir=unused", *words(folder, home)])
    data = instantiate(config["data"])
    found = data.build_index()
    pairs = ((one.row, (folder / one.path).read_bytes()) for one in found.used)
    wrong = sum(not np.array_equal(found.pixels[row], decode.decode(file, data.transform)[0]) for row, file in pairs)
    return wrong, len(found.used), len(found.pixels)


def recorded(home: Path) -> int:
    """Bytes of the recorded keys."""
    return sum(path.stat().st_size for path in home.glob("cache/decoded/*.keys"))


def kill_and_resume(folder: Path, home: Path, until: float) -> int:
    """Kill a training once `until` bytes of keys are recorded, then train again → the number of failures."""
    process = train(folder, home)
    while process.poll() is None and recorded(home) <= until:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    left = recorded(home)
    again = train(folder, home)
    _, log = again.communicate()
    wrong, rows, _ = wrong_rows(folder, home)
    print(f"killed with {left:,} bytes of keys; then decoded {decoded(log)}, ", end="")
    print(f"exit code {again.returncode}, {wrong} of {rows:,} rows wrong", flush=True)
    return wrong + (again.returncode != 0)


def two_at_once(folder: Path, home: Path) -> int:
    """Start two trainings on a cold cache → the number of failures."""
    both = [train(folder, home) for _ in range(2)]
    logs = [process.communicate()[1] for process in both]
    wrong, rows, stored = wrong_rows(folder, home)
    print(f"two at once: decoded {' and '.join(map(decoded, logs))}, exit codes ", end="")
    print(f"{[process.returncode for process in both]}, {stored:,} rows, {wrong} of {rows:,} wrong")
    return wrong + (stored != rows) + sum(process.returncode != 0 for process in both)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as place:
        home, begun = Path(place, "whole"), time.perf_counter()
        whole = train(args.folder, home)
        _, log = whole.communicate()
        seconds = time.perf_counter() - begun
        print(f"undisturbed: decoded {decoded(log)}, in {seconds:.1f} s, exit code {whole.returncode}")
        size = recorded(home)
        bad = sum(
            kill_and_resume(args.folder, Path(place, f"killed_{kill}"), rng.random() * size)
            for kill in range(args.kills)
        )
        bad += two_at_once(args.folder, Path(place, "two"))
    raise SystemExit(f"{bad} things went wrong" if bad else 0)


if __name__ == "__main__":
    main()
