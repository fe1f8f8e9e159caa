"""Test the article's claim that a reconstructed picture shifts towards the art that the model was trained on.

The muses are pictures of the built-in sample art, which none of the models has seen. For each model this prints the
PSNR of its picture to the muse, and its brightness, contrast and colour, beside those of the muses and of the art in
DIR.

    python benchmarks/article_claims.py --data DIR --sheet sheet.png article=RUN baseline=RUN painter=RUN

A painter starts from the muse with each of --strengths. The sheet has a column for each muse: the muse, then a picture
of each model, in the given order.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import artdiff
from artdiff import cache, images
from artdiff.evaluation.representation import LOOKS, look
from artdiff.ingest import sample_art
from artdiff.painter import Painter

SHOWN = 10


def muses(count: int, side: int) -> list[Image.Image]:
    """`count` pictures of each style."""
    root = sample_art.folder(cache.chosen_folder(None))
    files = [path for style in sorted(root.iterdir()) if style.is_dir() for path in sorted(style.iterdir())[:count]]
    return [Image.open(path).convert("RGB").resize((side, side), Image.Resampling.LANCZOS) for path in files]


def made(painter: Painter, muse: list[Image.Image], strengths: list[float]) -> Iterator[tuple[str, list[Image.Image]]]:
    """The pictures that a model makes from the muses, for a painter once for each strength."""
    if not painter.paints:
        yield "", [painter.reconstruct(one) for one in muse]
        return
    for strength in strengths:
        found = painter.paint(muse=list(muse), strength=strength, label="none", n=1)
        yield f", strength {strength:g}", [one.picture for one in found]


def stacked(pictures: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(one) for one in pictures])).permute(0, 3, 1, 2)


def line(name: str, image: Tensor, muse: Tensor | None) -> None:
    psnr = ""
    if muse is not None:
        errors = (
            images.signed_to_unit(images.to_signed(image)) - images.signed_to_unit(images.to_signed(muse))
        ).square()
        psnr = f"{(-10 * errors.mean((1, 2, 3)).log10()).mean().item():.1f} dB"
    values = "  ".join(f"{value:10.3f}" for value in look(image).mean(0).tolist())
    print(f"{name:34s} {psnr:>9s}  {values}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--data", type=Path, required=True, help="the art that the models were trained on")
    parser.add_argument("--n", type=int, default=10, help="muses of each style")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.4, 0.7])
    parser.add_argument("--sheet", type=Path, required=True)
    args = parser.parse_args()
    models = [(name, artdiff.load(run)) for name, _, run in (word.partition("=") for word in args.models)]
    side = max(painter.image_size for _, painter in models)
    asked = muses(args.n, side)
    index = artdiff.inspect(args.data, image_size=side, fit="crop").index
    some = index.on("train")[:: max(1, len(index.on("train")) // 1000)]
    art = torch.from_numpy(index.pixels[[one.row for one in some]]).permute(0, 3, 1, 2)
    print(f"{'':34s} {'PSNR':>9s}  " + "  ".join(f"{name:>10s}" for name in LOOKS))
    line("muses (sample art)", stacked(asked), None)
    line("art trained on", art, None)
    rows = [asked]
    for name, painter in models:
        own = [one.resize((painter.image_size, painter.image_size), Image.Resampling.LANCZOS) for one in asked]
        for how, pictures in made(painter, own, args.strengths):
            line(name + how, stacked(pictures), stacked(own))
            rows.append(pictures)
    step = max(1, len(asked) // SHOWN)
    large = [[one.resize((side, side), Image.Resampling.BICUBIC) for one in row[::step][:SHOWN]] for row in rows]
    shown = list(zip(*large, strict=True))
    images.sheet(shown, columns=SHOWN).save(args.sheet)


if __name__ == "__main__":
    main()
