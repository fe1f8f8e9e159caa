"""Read a folder of odd and broken files: each must be loaded or rejected, without an exception.

    python benchmarks/odd_files.py DIR [--index INDEX.tsv]

With an index (columns `path` and `rgb`, which is `ok` if Pillow alone decodes the file to RGB) every disagreement is
printed. Exits with 1 if a file is neither loaded nor rejected, or both.
"""

import argparse
import csv
import tempfile
import time
from collections import Counter
from pathlib import Path

from artdiff.ingest.decode import Transform
from artdiff.ingest.index import build_index
from artdiff.ingest.source import Folder
from artdiff.settings.data import Limits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--index", type=Path, help="the result of another decoder for each file")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--gigabytes", type=float, default=4)
    args = parser.parse_args()
    there = {path.relative_to(args.folder).as_posix() for path in args.folder.rglob("*") if not path.is_dir()}
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        found = build_index(
            Folder(args.folder),
            transform=Transform(128, "squash", (255, 255, 255)),
            limits=Limits(seconds=args.seconds, gigabytes=args.gigabytes),
            min_side=0,
            exclude=None,
            val_fraction=0.1,
            cache_dir=Path(cache),
            keep_pixels=True,
        )
        seconds = time.perf_counter() - begun
    loaded = {picture.path for picture in [*found.used, *found.copies]}
    rejected = dict(found.rejected)
    for reason, count in Counter(rejected.values()).most_common():
        print(f"{count:6,}  {reason}")
    print(f"{len(there):,} files: {len(loaded):,} loaded ({len(found.copies):,} of them copies), ", end="")
    print(f"{len(rejected):,} rejected, in {seconds:.1f} s")
    if args.index is not None:
        with args.index.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
        differ = [row["path"] for row in rows if (row["rgb"] == "ok") != (row["path"] in loaded)]
        print(f"{len(rows):,} in the index, {sum(row['path'] in loaded for row in rows):,} of them loaded, ", end="")
        print(f"{len(differ):,} disagree")
        for path in differ:
            print(f"  {path}: {rejected.get(path, 'loaded')}")
    lost = there - loaded - rejected.keys()
    if lost or loaded & rejected.keys():
        raise SystemExit(f"neither loaded nor rejected: {sorted(lost)}; both: {sorted(loaded & rejected.keys())}")


if __name__ == "__main__":
    main()
