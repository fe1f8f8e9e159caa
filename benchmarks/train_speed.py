"""Images per second of whole training commands: the article's program as a plain PyTorch loop, and artdiff.train.

The plain loop is what the article publishes: float32, `ImageFolder` and transforms, one process that decodes every file
every epoch. Both run the same number of steps on the same folder, in turns; each time is that of the whole command,
imports included, and artdiff's also of its validations, grids and checkpoints. In the first round artdiff's cache is
cold, so that this time includes decoding every file; from the second on it is warm.

    python benchmarks/train_speed.py --data DIR --steps 100 --rounds 2
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def plain(args: argparse.Namespace) -> None:
    """The article's program."""
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    from artdiff.images import IMAGENET_MEAN, IMAGENET_STD
    from artdiff.losses import PerceptualLoss
    from artdiff.networks import ConvDiffusionModel

    torch.manual_seed(0)
    vgg = PerceptualLoss(weights=args.weights, layer=args.layer, relative=False).features.to(
        memory_format=torch.contiguous_format
    )
    model = ConvDiffusionModel()
    transform = transforms.Compose(
        [
            transforms.Resize((args.image_size, args.image_size)),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    loader = DataLoader(ImageFolder(args.data, transform), batch_size=32, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    step = 0
    while step < args.steps:
        for image, _ in loader:
            output = model(image)
            loss = F.mse_loss(output, image) + F.mse_loss(vgg(output), vgg(image))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step == args.steps:
                break
    print(f"plain: loss {loss.item():.4f} after {step} steps")


def timed(command: list[str], log: Path) -> tuple[float, float]:
    """Run `command` → (wall-clock seconds, peak resident memory in GiB)."""
    started = time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status != 0:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text()}")
    return seconds, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with class subfolders, all of whose files decode")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--weights", default="random", help="as loss.perceptual.weights")
    parser.add_argument("--layer", default="relu3_3", help="as loss.perceptual.layer")
    parser.add_argument("--trainer", default="cpu")
    parser.add_argument("--plain", action="store_true", help="run the plain loop alone")
    args = parser.parse_args()
    if args.plain:
        return plain(args)

    images = 32 * args.steps
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "plain": [sys.executable, *sys.argv, "--plain"],
            "artdiff": [
                *(sys.executable, "-m", "artdiff.train", "experiment=article", f"trainer={args.trainer}"),
                *(f"data.root={args.data}", f"data.image_size={args.image_size}", f"trainer.max_steps={args.steps}"),
                *(f"loss.perceptual.weights={args.weights}", f"loss.perceptual.layer={args.layer}"),
                *(f"runs_dir={folder}", f"data.cache_dir={folder}/cache"),
            ],
        }
        for number in range(args.rounds):
            row = {}
            for name, command in commands.items():
                seconds, memory = timed(command, Path(folder) / f"{name}.log")
                row[name] = {"seconds": seconds, "images_per_second": images / seconds, "peak_gib": memory}
            row["ratio"] = row["artdiff"]["images_per_second"] / row["plain"]["images_per_second"]
            rounds.append(row)
            print(
                f"round {number + 1} (cache {'warm' if number else 'cold'}): "
                + ", ".join(
                    f"{name} {row[name]['images_per_second']:.2f} images/s ({row[name]['peak_gib']:.1f} GiB)"
                    for name in commands
                )
                + f", ratio {row['ratio']:.2f}",
                flush=True,
            )
    print(f"median ratio: {statistics.median(row['ratio'] for row in rounds):.2f}, first round included")
    print(json.dumps(rounds))
    return None


if __name__ == "__main__":
    main()
