"""Does a painter follow its prompt? Small classifiers that are trained on real pictures decide.

The pictures are the built-in sample art, whose captions are exact. A painter is trained with captions only, without
classes and without a few combinations of style and colours. Then it paints from prompts, and classifiers say how often
the pictures show what the prompt says: for combinations of the training and, separately, for unseen ones.

    python benchmarks/prompt_control.py --out DIR --minutes 10 [--n 200] [--guidance 2.0] [--caption-layers 0]
"""

import argparse
import csv
import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from label_control import judged, trained
from PIL import Image, ImageOps
from torch import Tensor

import artdiff
from artdiff import images
from artdiff.ingest import sample_art

SIDE, PER_STYLE, FOR_CLASSIFIERS = 32, 400, 300
UNSEEN = {("bands", "teal and pink"), ("strokes", "night and gold"), ("blocks", "brown and wine")}
COLOURED = ("blocks", "strokes", "bands")
STYLES = (*COLOURED, "engraving", "landscape")
PROMPTS = {
    "blocks": "soft blocks of colour, {}",
    "strokes": "flowing strokes, {}",
    "bands": "winding bands of tiles, {}",
}


def style(caption: str) -> str:
    return next(name for name in STYLES if name in caption)


def colours(caption: str) -> str | None:
    return caption.rpartition(", ")[2] if style(caption) in COLOURED else None


def sky(caption: str) -> str | None:
    return next((word for word in ("dusky", "bright") if word in caption), None)


def balls(caption: str) -> str | None:
    return next((word for word in ("one", "two", "three") if f"{word} ball" in caption), None)


ATTRIBUTES: dict[str, Callable[[str], str | None]] = {"style": style, "colours": colours, "sky": sky, "balls": balls}


def painted_art(folder: Path, *, per_style: int, seed: int) -> list[tuple[Path, str]]:
    """Paint sample art → its files and captions."""
    if not folder.exists():
        sample_art.paint(folder, per_style=per_style, seed=seed, captions=True)
    with (folder / sample_art.METADATA).open(encoding="utf-8", newline="") as stream:
        return [(folder / one["file_name"], one["text"]) for one in csv.DictReader(stream)]


def flat_folder(art: Sequence[tuple[Path, str]], folder: Path) -> int:
    """Copy the pictures to a flat folder, without the unseen combinations → their number."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = [(path, text) for path, text in art if (style(text), colours(text)) not in UNSEEN]
    for path, _ in kept:
        shutil.copyfile(path, folder / path.name)
    with (folder / sample_art.METADATA).open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("file_name", "text"), *((path.name, text) for path, text in kept)])
    return len(kept)


def small(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures (N,3,32,32) in [-1,1]."""
    fitted = [ImageOps.fit(one.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS) for one in pictures]
    return torch.stack([images.from_pillow(one) for one in fitted])


def classifiers(art: Sequence[tuple[Path, str]]) -> dict[str, tuple[torch.nn.Module, list[str]]]:
    """Train a classifier for each attribute → it and its class names. Prints its accuracy on held-out pictures."""
    seen, found = small([Image.open(path) for path, _ in art]), {}
    for name, attribute in ATTRIBUTES.items():
        answers = [attribute(text) for _, text in art]
        known = sorted({one for one in answers if one is not None})
        rows = torch.tensor([row for row, one in enumerate(answers) if one is not None])
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
        label = torch.tensor([known.index(answers[row]) for row in rows])
        cut = len(rows) // 5
        network = trained(seen[rows[cut:]], label[cut:], len(known), epochs=30)
        right = (judged(network, seen[rows[:cut]]) == label[:cut]).float().mean().item()
        print(f"the classifier of {name} is right on {right:.1%} of {cut} held-out pictures of {known}")
        found[name] = (network, known)
    return found


def prompts() -> list[str]:
    palettes = list(sample_art.PALETTES)
    coloured = [PROMPTS[kind].format(palette) for kind, palette in itertools.product(COLOURED, palettes)]
    skies = [f"landscape of hills under a {word} sky" for word in ("dusky", "bright")]
    counts = [f"engraving of {word} {'ball' if word == 'one' else 'balls'}" for word in ("one", "two", "three")]
    return [*coloured, *skies, *counts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--n", type=int, default=200, help="pictures in all")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--caption-layers", type=int, default=0, help="network.caption_layers")
    args = parser.parse_args()
    run = args.out / "run"
    if not run.exists():
        count = flat_folder(painted_art(args.out / "painted", per_style=PER_STYLE, seed=1), args.out / "art")
        print(f"{count:,} pictures to learn from, without {', '.join(' '.join(one) for one in sorted(UNSEEN))}")
        limit = {"max_time": f"00:00:{args.minutes:02d}:00"}
        data = {"root": args.out / "art", "captions": "metadata"}
        network = {"caption_layers": args.caption_layers}
        artdiff.train("paint32", data=data, trainer=limit, run_dir=run, network=network)
    judges = classifiers(painted_art(args.out / "judged", per_style=FOR_CLASSIFIERS, seed=2))
    painter, asked = artdiff.load(run), prompts()
    each = max(1, args.n // len(asked))
    hits: dict[tuple[str, bool], list[bool]] = {}
    for prompt in asked:
        made = small([one.picture for one in painter.paint(n=each, prompt=prompt, guidance=args.guidance)])
        is_new = (style(prompt), colours(prompt)) in UNSEEN
        for name, attribute in ATTRIBUTES.items():
            wanted = attribute(prompt)
            if wanted is not None:
                network, known = judges[name]
                hits.setdefault((name, is_new), []).extend((judged(network, made) == known.index(wanted)).tolist())
    for (name, is_new), right in sorted(hits.items()):
        among = "combinations it has never seen" if is_new else "combinations it has seen"
        print(f"{name}: {np.mean(right):.1%} of {len(right)} pictures, {among}")
    rows = painter.paint(n=8, prompt=asked, guidance=args.guidance)
    images.save(images.sheet([(one.picture.resize((96, 96)),) for one in rows], columns=8), args.out / "sheet.png")
    print(f"a row of each prompt: {args.out / 'sheet.png'}")


if __name__ == "__main__":
    main()
