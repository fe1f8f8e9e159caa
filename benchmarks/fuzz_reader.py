"""Damage valid pictures of every format at random and read them: each must be loaded or rejected.

    python benchmarks/fuzz_reader.py --count 20000 --seed 0

Mutations are bit flips, truncations, zeroed and repeated stretches, and splices of two files. Prints the outcomes by
format, and each mutation on which a decoder crashed or ran out of time or memory; `--keep DIR` saves these files.
"""

import argparse
import io
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from artdiff.ingest import pool
from artdiff.ingest.child import Job
from artdiff.ingest.decode import Transform
from artdiff.settings.data import Limits


def seeds(rng: np.random.Generator) -> list[tuple[str, bytes]]:
    """Small valid files in the modes and variants of each format."""
    pixels = rng.integers(0, 256, (24, 20, 4), dtype=np.uint8)
    rgba = Image.fromarray(pixels).resize((61, 83), Image.Resampling.BICUBIC)
    rgb, grey, palette = rgba.convert("RGB"), rgba.convert("L"), rgba.convert("RGB").quantize(40)
    deep = Image.fromarray(rng.integers(0, 65536, (40, 30), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    more = [rgb.rotate(90), rgb.rotate(180)]
    variants = [
        ("JPEG", rgb, {"quality": 80, "exif": exif}),
        ("JPEG", rgb, {"progressive": True, "subsampling": 0}),
        ("JPEG", grey, {"restart_marker_rows": 2}),
        ("JPEG", rgb.convert("CMYK"), {}),
        ("PNG", rgba, {}),
        ("PNG", palette, {"transparency": 3}),
        ("PNG", deep, {}),
        ("PNG", grey.convert("1"), {}),
        ("PNG", rgb, {"save_all": True, "append_images": more, "exif": exif}),
        ("WEBP", rgb, {"quality": 70}),
        ("WEBP", rgba, {"lossless": True, "exif": exif}),
        ("WEBP", rgb, {"save_all": True, "append_images": more}),
        ("GIF", palette, {"transparency": 2}),
        ("GIF", rgb, {"save_all": True, "append_images": more}),
        ("BMP", rgb, {}),
        ("BMP", palette, {}),
        ("BMP", rgba, {}),
        ("TIFF", rgb, {"compression": "tiff_lzw"}),
        ("TIFF", rgba, {"compression": "tiff_adobe_deflate"}),
        ("TIFF", grey.convert("1"), {"compression": "group4"}),
        ("TIFF", rgb, {"compression": "jpeg"}),
        ("TIFF", deep, {}),
        ("TIFF", rgb.convert("CMYK"), {"compression": "packbits"}),
    ]
    found = []
    for name, picture, options in variants:
        stream = io.BytesIO()
        picture.save(stream, name, **options)
        found.append((name, stream.getvalue()))
    return found


def mutated(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    way = rng.integers(6)
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 65))
    if way == 0:
        for place in rng.integers(len(data) * 8, size=rng.integers(1, 17)):
            data[place // 8] ^= 1 << (place % 8)
    elif way == 1:
        del data[at:]
    elif way == 2:
        data[at : at + length] = bytes(length)
    elif way == 3:
        data[at:at] = data[at : at + length] * int(rng.integers(1, 9))
    elif way == 4:
        data[at:] = other[int(rng.integers(len(other))) :]
    else:  # the header, which holds sizes
        for place in rng.integers(min(len(data), 64), size=rng.integers(1, 5)):
            data[place] = rng.choice((0, 1, 127, 128, 255))
    return bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--keep", type=Path, help="folder for files that crash a decoder or exceed a limit")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    valid = seeds(rng)
    formats: list[str] = []
    jobs: list[Job] = []
    results: dict[int, pool.Outcome] = {}
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.count):
            name, content = valid[number % len(valid)]
            path = Path(folder, str(number))
            path.write_bytes(mutated(content, valid[int(rng.integers(len(valid)))][1], rng))
            status = path.stat()
            formats.append(name)
            jobs.append(Job(str(path), status.st_size, status.st_mtime_ns, number))
        limits = Limits(seconds=args.seconds, gigabytes=args.gigabytes)
        running = pool.run(jobs, Transform(64, "squash", (255, 255, 255)), limits)
        for job, outcome in tqdm(running, total=args.count, disable=None):
            results[job.row] = outcome
            if outcome.reason is not None and outcome.reason.startswith(pool.COSTLY):
                print(f"{formats[job.row]} mutation {job.row}: {outcome.reason}")
                if args.keep is not None:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / f"{args.seed}_{job.row}").write_bytes(Path(job.path).read_bytes())
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for number, outcome in results.items():
        lost = outcome.reason is not None and outcome.reason.startswith(pool.COSTLY)
        table[formats[number]]["cost a process" if lost else "loaded" if outcome.facts else "rejected"] += 1
    places = ("loaded", "rejected", "cost a process")
    for name, counts in sorted(table.items()):
        print(f"{name:5} " + ", ".join(f"{counts[place]:,} {place}" for place in places))
    seconds = time.perf_counter() - begun
    print(f"{len(results):,} of {args.count:,} mutations answered, in {seconds:.0f} s (seed {args.seed})")
    if len(results) != args.count:
        raise SystemExit("a mutation was neither loaded nor rejected")


if __name__ == "__main__":
    main()
