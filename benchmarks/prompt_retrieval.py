"""Does a painter of real art follow its prompts better than its labels? A small classifier of real pictures decides.

DIR holds pictures and a metadata.csv with the columns file_name, text (a caption that contains the label) and label.
One painter is trained with captions only, another one with labels only. They are trained at the same time and equally
long, each on half of the cores. Both paint the most frequent labels, and the classifier predicts the label of each
picture. Its accuracy on held-out real pictures is the upper limit.

    python benchmarks/prompt_retrieval.py --data DIR --out DIR --minutes 20 [--labels 8] [--n 25] [--guidance 2.0]
"""

import argparse
import csv
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from label_control import judged, trained
from PIL import Image
from prompt_control import small

import artdiff
from artdiff import images

Known = tuple[Path, str, str]
"""A file, its caption and its label."""


def read(folder: Path) -> list[Known]:
    """File, caption and label of each picture."""
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        return [(folder / one["file_name"], one["text"], one["label"]) for one in csv.DictReader(stream)]


def flat(art: Sequence[Known], folder: Path) -> None:
    """Link the pictures in a folder with their captions and without labels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (path, _, _) in enumerate(art):
        (folder / f"{number:05d}{path.suffix}").symlink_to(path.resolve())
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
        rows = ((f"{number:05d}{path.suffix}", text) for number, (path, text, _) in enumerate(art))
        csv.writer(stream).writerows([("file_name", "text"), *rows])


def sorted_by_label(art: Sequence[Known], folder: Path) -> None:
    """Link the pictures in a folder for each label."""
    for number, (path, _, label) in enumerate(art):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number:05d}{path.suffix}").symlink_to(path.resolve())


def train(out: Path, minutes: int) -> None:
    """Train both painters at the same time."""
    limit, cores = f"trainer.max_time=00:{minutes // 60:02d}:{minutes % 60:02d}:00", max(1, (os.cpu_count() or 2) // 2)
    command = [sys.executable, "-m", "artdiff.train", "experiment=paint32", limit]
    started = [
        subprocess.Popen(
            [*command, f"data.root={out / name}", f"data.captions={captions}", f"run_dir={out / 'runs' / name}"],
            env={**os.environ, "OMP_NUM_THREADS": str(cores)},
        )
        for name, captions in (("captions", "metadata"), ("labels", "none"))
    ]
    if any(one.wait() for one in started):
        sys.exit("a training failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--labels", type=int, default=8)
    parser.add_argument("--n", type=int, default=25, help="pictures of each label")
    parser.add_argument("--guidance", type=float, default=2.0)
    args = parser.parse_args()
    art = read(args.data)
    if not (args.out / "runs").exists():
        flat(art, args.out / "captions")
        sorted_by_label(art, args.out / "labels")
        train(args.out, args.minutes)

    known = sorted(label for label, _ in Counter(label for _, _, label in art).most_common(args.labels))
    asked = [one for one in art if one[2] in known]
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(0)).tolist()
    seen = small([Image.open(asked[place][0]) for place in order])
    label = torch.tensor([known.index(asked[place][2]) for place in order])
    cut = len(label) // 5
    tested = trained(seen[cut:], label[cut:], len(known), epochs=30)
    right = (judged(tested, seen[:cut]) == label[:cut]).float().mean().item()
    print(f"the classifier is right on {right:.1%} of {cut} held-out pictures of {', '.join(known)}")
    print(f"chance: {1 / len(known):.1%}")
    judge = trained(seen, label, len(known), epochs=30)
    for name, setting in (("captions", "prompt"), ("labels", "label")):
        painter, rows, hits = artdiff.load(args.out / "runs" / name), [], []
        for number, one in enumerate(known):
            how = {setting: one, "n": args.n, "seed": number * args.n, "guidance": args.guidance}
            painted = [painting.picture for painting in painter.paint(**how)]
            hits += (judged(judge, small(painted)) == number).tolist()
            rows += [(picture.resize((96, 96)),) for picture in painted[:8]]
        sheet = args.out / f"{name}.png"
        images.save(images.sheet(rows, columns=8), sheet)
        print(f"painted from {name}: {sum(hits) / len(hits):.1%} of {len(hits)} classified as the label; {sheet}")


if __name__ == "__main__":
    main()
