"""Train many epochs on the sample art and watch memory and open files: do they grow?

    python benchmarks/soak.py [--epochs 200] [--jobs 20] [SETTING=VALUE …]

Samples the process every half second, and prints the mean memory and the most open files in each quarter of its time.
Then the same for a sweep of `--jobs` short jobs in one process. Linux only.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL = (
    *("experiment=paint32", "data.image_size=16", "data.batch_size=64", "network.channels=[16,32]"),
    *("network.cond_dim=32", "network.attention_resolutions=[]", "trainer.accelerator=cpu", "callbacks.grids=null"),
)
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=20)
    asked, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as home:
        long = (*SMALL, f"trainer.max_epochs={asked.epochs}", "trainer.max_steps=-1", *more)
        show(f"{asked.epochs} epochs", watched(long, home))
        seeds = ",".join(str(seed) for seed in range(asked.jobs))
        show(f"{asked.jobs} jobs", watched(("-m", *SMALL, "trainer.max_epochs=2", f"seed={seeds}", *more), home))


def watched(words: tuple[str, ...], home: str) -> list[tuple[float, int]]:
    """Resident MiB and the number of open files of a training, every half second."""
    found = []
    with (Path(home) / "log").open("ab") as log:
        command = [sys.executable, "-m", "artdiff.train", *words]
        running = subprocess.Popen(command, cwd=home, stdout=log, stderr=log)
        while running.poll() is None:
            process = Path(f"/proc/{running.pid}")
            try:
                pages = int((process / "statm").read_text().split()[1])
                found.append((pages * os.sysconf("SC_PAGE_SIZE") / MIB, len([*(process / "fd").iterdir()])))
            except (OSError, IndexError):  # it has just ended
                break
            time.sleep(0.5)
        if running.wait():
            sys.exit(f"the training failed: {(Path(home) / 'log').read_text()[-1000:]}")
    return found


def show(what: str, samples: list[tuple[float, int]]) -> None:
    quarter = max(1, len(samples) // 4)
    parts = [samples[start : start + quarter] for start in range(0, 4 * quarter, quarter)]
    memory = [f"{sum(one for one, _ in part) / len(part):.0f}" for part in parts if part]
    files = [f"{max(count for _, count in part)}" for part in parts if part]
    print(f"{what}, {len(samples) / 2:.0f} s: resident MiB by quarter {' '.join(memory)}, files {' '.join(files)}")


if __name__ == "__main__":
    main()
