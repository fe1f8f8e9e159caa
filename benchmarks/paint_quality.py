"""How well a run paints: Fréchet distances to held-out pictures, contrast, and nearest neighbours.

Paints N pictures without guidance, with classes in the proportions of the training pictures. Compares them, and N real
training pictures, with all held-out ones. The Fréchet distance is that of pooled features: mean and standard deviation
of every ReLU of a VGG16, on pictures enlarged twice. Its weights are random up to relu3_3 (seed 0), so no model was
trained with them; with --weights FILE also those of that file, up to relu3_1. Distances depend on N.

    python benchmarks/paint_quality.py --ckpt RUN --data DIR --n 500 --save samples.npy

With --painted, a folder that artdiff.generate wrote, it only writes the sheet --nearest: those pictures, each above the
training picture (or its mirror image) nearest to it.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from hydra.utils import instantiate
from measure import composed
from PIL import Image
from torch import Tensor, nn

import artdiff
from artdiff import images, runs
from artdiff.data.datamodule import ArtDataModule
from artdiff.data.loader import Pictures
from artdiff.evaluation.distances import frechet
from artdiff.evaluation.features import pooled
from artdiff.losses import PerceptualLoss


class Art(NamedTuple):
    """Training and validation pictures of a run, uint8 (N,3,H,W), and the share of each class."""

    train: Tensor
    held_out: Tensor
    shares: dict[str, float]


def data_of(ckpt: Path, root: str | None) -> ArtDataModule:
    """The data of a run, read from `root` with the run's settings."""
    settings = torch.load(ckpt, map_location="cpu", weights_only=True)["datamodule_hyper_parameters"]
    config = composed("train", "run_dir=unused")["data"]
    config |= {name: settings[name] for name in config if name in settings}
    data = instantiate(config | {"root": root, "random_crop": 0})
    data.setup()
    return data


def real(ckpt: Path, root: str | None) -> Art:
    data = data_of(ckpt, root)
    labels = [data.classes[label] if label >= 0 else "none" for label in data.train_set.labels.tolist()]
    shares = {name: labels.count(name) / len(labels) for name in sorted(set(labels))}
    return Art(pixels(data.train_set), pixels(data.val_set), shares)


def pixels(part: Pictures) -> Tensor:
    """All pictures of a split, uint8 (N,3,H,W)."""
    return torch.from_numpy(part.source.read(part.indices)[0]).permute(0, 3, 1, 2)


def painted(ckpt: Path, shares: dict[str, float], args: argparse.Namespace) -> Tensor:
    """Paint pictures of each class in proportion to its share, uint8 (N,3,H,W)."""
    painter, made, due = artdiff.load(ckpt), list[Tensor](), 0.0
    begun = time.perf_counter()
    for name, share in shares.items():
        due += share * args.n
        count = round(due) - len(made)
        if count:
            how = {
                "label": name,
                "n": count,
                "seed": args.seed + len(made),
                "steps": args.steps,
                "guidance": args.guidance,
            }
            made += [images.to_uint8(images.from_pillow(one.picture)) for one in painter.paint(**how)]
    speed = len(made) / (time.perf_counter() - begun)
    steps = "the usual" if args.steps is None else args.steps
    print(f"{speed:.2f} pictures/s in {steps} steps, guidance {args.guidance}")
    return torch.stack(made)


@torch.no_grad()
def features(image: Tensor, network: nn.Sequential) -> Tensor:
    """uint8 (N,3,H,W) → float64 (N,features)."""
    return pooled(network, image, enlarged=2).double()


def unit(image: Tensor) -> Tensor:
    return images.signed_to_unit(images.to_signed(image))


def nearest(image: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """For each picture, uint8 (N,3,H,W): the smallest RMS distance to a picture of `train`, and that picture."""
    both = torch.cat([train, train.flip(-1)])
    distances = torch.cdist(unit(image).flatten(1), unit(both).flatten(1)) / image[0].numel() ** 0.5
    least, which = distances.min(dim=1)
    return least, both[which]


def write_nearest(folder: Path, train: Tensor, sheet: Path) -> None:
    paths = [path for path in sorted(folder.glob("*.png")) if not path.stem.startswith("sheet")]
    made = torch.stack([images.to_uint8(images.from_pillow(Image.open(path).convert("RGB"))) for path in paths])
    least, found = nearest(made, train)
    pairs = zip(made, found, strict=True)
    stacks = [tuple(images.to_pillow(images.to_signed(part)) for part in pair) for pair in pairs]
    images.sheet(stacks, columns=16).save(sheet)
    print(
        f"{sheet}: root mean square distances from {least.min():.3f} to {least.max():.3f}, median {least.median():.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--data", help="the folder that the run was trained on; default: the built-in sample art")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the first picture")
    parser.add_argument("--steps", type=int, help="of the painter; default: those of artdiff.generate")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--weights", help="of a trained VGG16, up to relu3_1 at least")
    parser.add_argument("--save", type=Path, help="file to write the pictures to, uint8 (N,H,W,3)")
    parser.add_argument("--pictures", type=Path, nargs="+", help="score files of --save instead of painting")
    parser.add_argument("--painted", type=Path)
    parser.add_argument("--nearest", type=Path)
    args = parser.parse_args()
    ckpt = runs.find_checkpoint(args.ckpt, newest_in=Path("runs"), prefer=runs.BEST)
    art = real(ckpt, args.data)
    if args.painted is not None:
        write_nearest(args.painted, art.train, args.nearest)
        return
    if args.pictures is not None:
        sets = {path.stem: torch.from_numpy(np.load(path)).permute(0, 3, 1, 2) for path in args.pictures}
    else:
        sets = {"painted": painted(ckpt, art.shares, args)}
    if args.save is not None:
        np.save(args.save, sets["painted"].permute(0, 2, 3, 1).numpy())
    networks = {"random VGG16": PerceptualLoss(weights="random", layer="relu3_3", relative=False, keep=0).features}
    if args.weights:
        networks["trained VGG16"] = PerceptualLoss(
            weights=args.weights, layer="relu3_1", relative=False, keep=0
        ).features
    order = torch.randperm(len(art.train), generator=torch.Generator().manual_seed(0))
    sets["real training pictures"] = art.train[order[: args.n]]
    sets["held-out pictures"] = art.held_out
    held_out = {title: features(art.held_out, network) for title, network in networks.items()}
    for name, image in sets.items():
        print(f"{name}, {len(image):,}: contrast {contrast(image):.3f}")
        if name == "held-out pictures":
            continue
        for title, network in networks.items():
            far = frechet(features(image, network), held_out[title])
            print(f"  Fréchet distance to the held-out ones {far:.4g} ({title})")
    for name, image in sets.items():
        if name != "real training pictures":
            print(f"{name}: nearest training picture at {nearest(image, art.train)[0].median():.3f} (median)")


def contrast(image: Tensor) -> float:
    """Standard deviation of a channel within a picture, averaged, in [0,1]."""
    return images.colours(images.to_signed(image)).spread.mean().item()


if __name__ == "__main__":
    main()
