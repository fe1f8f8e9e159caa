"""Images per second from disk to batch, measured in turns: the article's loader, artdiff's decode pass, and its cache.

    python benchmarks/loading_speed.py DIR [DIR ...] --image-size 128 --rounds 3

- *article*: `ImageFolder` and transforms through a DataLoader, in one process on one core, which it does every epoch.
- *decode pass*: artdiff's first start on the folder (scan, hashes, decoding in child processes, writing the cache), on
  each number of cores in `--cores`.
- *cache*: shuffled batches of 32 as in training, from the cache, in one process with one thread.

Also prints the mean difference of the decoded pixels from a full decode and full-quality resize, on a scale of 255.
Every file must decode. Files are read once before timing starts, so that nothing waits for the disk.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from artdiff.cli import composed
from artdiff.images import IMAGENET_MEAN, IMAGENET_STD


def article(folder: Path, size: int) -> float:
    steps = [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    files = ImageFolder(folder, transforms.Compose(steps))
    begun = time.perf_counter()
    for _ in DataLoader(files, batch_size=32, shuffle=True):
        pass
    return len(files) / (time.perf_counter() - begun)


def module(folder: Path, size: int, cache: Path):
    words = (f"data.root={folder}", f"data.image_size={size}", f"data.cache_dir={cache}", "run_dir=unused")
    return instantiate(composed("train", words)["data"])


def decode_pass(folder: Path, size: int, cores: int) -> float:
    everything = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(everything)[:cores])
    try:
        with tempfile.TemporaryDirectory() as cache:
            data = module(folder, size, Path(cache))
            begun = time.perf_counter()
            found = data.build_index()
            seconds = time.perf_counter() - begun
    finally:
        os.sched_setaffinity(0, everything)
    return (len(found.used) + len(found.copies)) / seconds


def cached(folder: Path, size: int, cache: Path, seconds: float = 3.0) -> float:
    data = module(folder, size, cache)
    data.setup()
    loader = data.train_dataloader()
    images, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for wire in loader:
            images += len(wire.image)
    return images / (time.perf_counter() - begun)


def difference(folder: Path, size: int, cache: Path, filter: Image.Resampling) -> float:
    """The mean absolute difference of the pixels from a full decode and resize, averaged over the pictures."""
    found = module(folder, size, cache).build_index()
    apart = []
    for one in found.used:
        with Image.open(folder / one.path) as picture:
            full = ImageOps.exif_transpose(picture).convert("RGB").resize((size, size), filter)
        apart.append(np.abs(np.asarray(full, int) - found.pixels[one.row]).mean())
    return float(np.mean(apart))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, len(os.sched_getaffinity(0))])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for folder in args.folders:
        for path in folder.rglob("*"):
            if path.is_file():
                path.read_bytes()
        speeds: dict[str, list[float]] = {}
        with tempfile.TemporaryDirectory() as kept:
            module(folder, args.image_size, Path(kept)).setup()
            for _ in range(args.rounds):
                speeds.setdefault("article", []).append(article(folder, args.image_size))
                for cores in args.cores:
                    speed = decode_pass(folder, args.image_size, cores)
                    speeds.setdefault(f"decode pass, {cores} cores", []).append(speed)
                speeds.setdefault("cache", []).append(cached(folder, args.image_size, Path(kept)))
            print(f"{folder}, {args.image_size} px, images/s, median of {args.rounds} rounds:")
            base = statistics.median(speeds["article"])
            for name, each in speeds.items():
                median = statistics.median(each)
                print(f"  {name:21} {median:9,.0f}  {median / base:7.2f} x article  ", end="")
                print(f"({min(each):,.0f} to {max(each):,.0f})")
            for filter in (Image.Resampling.LANCZOS, Image.Resampling.BICUBIC):
                apart = difference(folder, args.image_size, Path(kept), filter)
                print(f"  pixels lie {apart:.2f} of 255 from a full decode and {filter.name.lower()} resize")


if __name__ == "__main__":
    main()
