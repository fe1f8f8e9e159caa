"""Images per second and memory for different sizes of pictures, of batches and of the folder: two tables.

    python benchmarks/growth.py --data DIR --keep MADE
    python benchmarks/growth.py --data DIR --keep MADE --trainer gpu --batches 32 128 512 --megapixels 1000

Each row is a separate training: images/s of its steps after the first, its peak resident memory, and that of a GPU. No
target features are cached (loss.perceptual.keep=0). The second table is for folders of many small pictures, which this
script makes. It times a second training on each, which has nothing left to decode.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from many_files import make
from measure import STEPS_ALONE, Timed, timed

WARM = 1
"""Warm-up steps, not timed; few, since large pictures take long."""


def train(args: argparse.Namespace, folder: Path, root: object, *, size: int, batch: int) -> Timed:
    """Time a training on about --megapixels, at least three steps."""
    steps = WARM + max(3, round(args.megapixels * 1e6 / (batch * size**2)))
    fixed = ["experiment=baseline", f"trainer={args.trainer}", f"trainer.max_steps={steps}", f"runs_dir={folder}/runs"]
    fixed += [f"data.cache_dir={folder}/cache", "loss.perceptual.weights=random", "loss.perceptual.keep=0"]
    fixed += [*STEPS_ALONE, f"callbacks.clock.warm={WARM}", f"data.image_size={size}", f"data.batch_size={batch}"]
    return timed([sys.executable, "-m", "artdiff.train", *fixed, f"data.root={root}"], folder / "log")


def memory(done: Timed) -> str:
    on_device = done.figures["device_gib"]
    return f"{done.gib:.1f}" + (f" + {on_device:.1f}" if on_device is not None else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with class subfolders")
    parser.add_argument("--keep", type=Path, help="folder to make the files in, and to keep them for the next time")
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 128, 256])
    parser.add_argument("--batches", type=int, nargs="*", default=[8, 32, 128])
    parser.add_argument("--counts", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--megapixels", type=float, default=6.0, help="for each training, about; take more on a GPU")
    parser.add_argument("--trainer", default="cpu", choices=("cpu", "gpu"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        own = Path(name)
        print("| size | batch | images/s | million pixels/s | memory, GiB |\n|---|---|---|---|---|")
        for size in args.sizes:
            for batch in args.batches:
                done = train(args, own, args.data, size=size, batch=batch)
                rate = done.figures["rate"]
                print(f"| {size} | {batch} | {rate:.1f} | {rate * size**2 / 1e6:.2f} | {memory(done)} |", flush=True)
        print("\n| files | first step after, s | images/s | memory, GiB |\n|---|---|---|---|")
        for count in args.counts:
            root = (args.keep or own) / str(count)
            if not root.exists():
                make(root, count)
            train(args, own, root, size=64, batch=32)
            done = train(args, own, root, size=64, batch=32)
            print(
                f"| {count:,} | {done.figures['begun']:.1f} | {done.figures['rate']:.1f} | {memory(done)} |", flush=True
            )


if __name__ == "__main__":
    main()
