"""Time and memory of the check for copies: 1,000 painted pictures against 1,000 and 10,000 training pictures.

    python benchmarks/originality_speed.py --data DIR --size 128

If DIR has fewer pictures, they are repeated, each shifted by some pixels: the time does not depend on the content.
"""

import argparse
import time

import numpy as np
import torch
from torch import Tensor

import artdiff
from artdiff.evaluation import features, originality
from artdiff.training.monitor import resident

PAINTED, HELD_OUT, AT_ONCE = 1_000, 500, 50


def pictures(folder: str, side: int) -> Tensor:
    """uint8 (N,3,side,side)."""
    index = artdiff.inspect(folder, image_size=side, fit="crop").index
    pixels = np.asarray(index.pixels[[one.row for one in index.used]])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--trained", type=int, nargs="+", default=[1_000, 10_000])
    args = parser.parse_args()
    known = pictures(args.data, args.size)
    network = features.load("random_vgg16", None, torch.device("cpu"))

    def part(first: int, count: int) -> Tensor:
        places = torch.arange(first, first + count)
        return torch.stack([known[place % len(known)].roll(int(place // len(known)), -1) for place in places])

    for trained in args.trained:
        begun = time.perf_counter()
        sets = [part(0, trained), part(trained, HELD_OUT), part(trained + HELD_OUT, PAINTED)]
        small = [originality.pixels(one) for one in sets]
        seen = [network.seen(one.split(AT_ONCE), torch.device("cpu")) for one in sets]
        looked = time.perf_counter()
        for space in originality.spaces(small, seen, network):
            originality.originality(space, list(range(trained)))
        ended = time.perf_counter()
        print(
            f"{trained:,} training pictures of {args.size} px, {PAINTED:,} painted: "
            f"{looked - begun:.0f} s for features, {ended - looked:.0f} s to compare them; "
            f"{resident() / 2**30:.1f} GiB"
        )


if __name__ == "__main__":
    main()
