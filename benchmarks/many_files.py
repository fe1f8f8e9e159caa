"""Start-up times and memory with many small files, which this script makes: does anything grow that should not?

    python benchmarks/many_files.py --counts 10000 100000 --keep DIR

For each count this times, each in its own process: listing the folder; the first start, which reads, decodes and
compares everything; the second start, which does none of that; and a start after one file was added. Then it samples
the resident memory of a training until it ends: all of it, and without file pages, which the system can reclaim.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10

START = """
import json, sys, time
from pathlib import Path
from hydra.utils import instantiate
import artdiff.data.datamodule
from artdiff.cli import composed
from artdiff.ingest.scan import scan
root, cache = sys.argv[1:]
words = [f"data.root={root}", f"data.cache_dir={cache}", "data.image_size=32", "run_dir=unused"]
data = instantiate(composed("train", words)["data"])
begun = time.perf_counter()
files = len(scan(Path(root)).files)
listed = time.perf_counter()
data.setup()
print(json.dumps({"files": files, "listing": listed - begun, "start": time.perf_counter() - listed}))
"""


def paint(folder: Path, first: int, last: int) -> None:
    for index in range(first, last):
        spots = np.random.default_rng(index).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        path = folder / str(index % CLASSES) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(spots).resize((48, 48), Image.Resampling.BICUBIC).save(path, quality=85)


def make(folder: Path, count: int) -> None:
    parts = range(0, count, 2000)
    with ProcessPoolExecutor() as pool:
        list(pool.map(paint, [folder] * len(parts), parts, [min(count, part + 2000) for part in parts]))


def start(root: Path, cache: Path) -> dict[str, float]:
    printed = subprocess.run([sys.executable, "-c", START, root, cache], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(printed.stdout)


def train(root: Path, cache: Path, steps: int) -> tuple[list[int], list[int]]:
    """The resident memory of a training in MiB, sampled twice a second: all of it, and without file pages."""
    with tempfile.TemporaryDirectory() as runs:
        words = [f"data.root={root}", f"data.cache_dir={cache}", "data.image_size=32", f"runs_dir={runs}", "loss=mse"]
        words += ["trainer=cpu", f"trainer.max_steps={steps}", "trainer.limit_val_batches=10", "data.batch_size=64"]
        process = subprocess.Popen([sys.executable, "-m", "artdiff.train", *words], stderr=subprocess.DEVNULL)
        whole, own = [], []
        while process.poll() is None:
            time.sleep(0.5)
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                break
            status = dict(line.split(":", 1) for line in lines)
            if "VmRSS" in status:
                whole.append(int(status["VmRSS"].split()[0]) // 1024)
                own.append(int(status["RssAnon"].split()[0]) // 1024)
        assert process.wait() == 0
    return whole, own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--keep", type=Path, help="folder to make the files in, and to keep them for the next time")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as own:
        for count in args.counts:
            root, cache = (args.keep or Path(own)) / str(count), Path(own, f"cache_{count}")
            if not root.exists():
                make(root, count)
            first, second = start(root, cache), start(root, cache)
            size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
            paint(root, count, count + 1)
            grown = start(root, cache)
            (root / str(count % CLASSES) / f"{count}.jpg").unlink()
            print(f"{second['files']:,} files: listing {second['listing']:.2f} s, ", end="")
            print(f"first start {first['start']:.1f} s, second start {second['start']:.2f} s, ", end="")
            print(f"with one file more {grown['start']:.2f} s, ", end="")
            print(f"cache {size / 2**20:,.0f} MiB", flush=True)
            whole, anonymous = train(root, cache, args.steps)
            late = len(whole) // 2
            print(f"  training, {args.steps:,} steps of 64: resident {whole[late]:,} MiB half way, ", end="")
            print(f"{whole[-1]:,} at the end, {max(whole):,} at most; ", end="")
            print(f"without pages of files {anonymous[late]:,}, {anonymous[-1]:,}, {max(anonymous):,}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
