"""Do painted pictures show the style of their label? A small classifier that is trained on real pictures decides.

The classifier, three convolutions and a linear layer, is trained on the pictures that the run was trained on. Its
accuracy on held-out pictures is printed first. Then N pictures of each class are painted, with the default settings of
artdiff.generate, and the share that is classified as its label is printed.

    python benchmarks/label_control.py --ckpt RUN --n 100 [--data DIR]
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from paint_quality import data_of, pixels
from torch import Tensor, nn

import artdiff
from artdiff import images, runs


def classifier(classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes))


def trained(image: Tensor, label: Tensor, classes: int, epochs: int) -> nn.Sequential:
    """Train a classifier on pictures (N,3,H,W) in [-1,1], flipped at random."""
    torch.manual_seed(0)
    network = classifier(classes).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(image)).split(64):
            some = image[rows]
            some = torch.where(torch.rand(len(some), 1, 1, 1) < 0.5, some.flip(-1), some)
            loss = F.cross_entropy(network(some), label[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


@torch.no_grad()
def judged(network: nn.Sequential, image: Tensor) -> Tensor:
    return torch.cat([network(some).argmax(1) for some in image.split(256)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--data", help="the folder that the run was trained on; default: the built-in sample art")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    ckpt = runs.find_checkpoint(args.ckpt, newest_in=Path("runs"), prefer=runs.BEST)
    data, painter = data_of(ckpt, args.data), artdiff.load(ckpt)
    if data.classes != painter.classes:
        raise SystemExit(f"{args.ckpt} knows {painter.classes}, the pictures are {data.classes}: set --data")
    real = [images.to_signed(pixels(part)) for part in (data.train_set, data.val_set)]
    network = trained(real[0], data.train_set.labels, len(data.classes), args.epochs)
    right = (judged(network, real[1]) == data.val_set.labels).float().mean()
    print(f"classifier: {right:.1%} of {len(real[1])} held-out pictures right, after {len(real[0]):,} real ones")

    image = torch.stack([images.from_pillow(one.picture) for one in painter.paint(n=args.n)])
    taken = judged(network, image).view(len(painter.classes), args.n)
    for number, name in enumerate(painter.classes):
        shares = torch.bincount(taken[number], minlength=len(painter.classes)) / args.n
        print(
            f"  {name}: "
            + ", ".join(f"{other} {share:.0%}" for other, share in zip(painter.classes, shares, strict=True))
        )
    right = (taken == torch.arange(len(painter.classes))[:, None]).float().mean()
    print(f"painted: {right:.1%} of {taken.numel()} pictures are classified as their label")


if __name__ == "__main__":
    main()
