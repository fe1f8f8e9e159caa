"""Do feature networks agree on which painter is better? The rank correlation of their Fréchet distances.

Train a painter and keep many of its checkpoints, evaluate all of them with two feature networks, then compare:

    python -m artdiff.train experiment=paint32 data.root=DIR callbacks.every_ten_epochs.save_top_k=-1
    python -m artdiff.evaluate ckpt=RUN n=200 compare.checkpoints=all 'weights=[averaged,raw]' \\
        'features=[random_vgg16,vgg16]' feature_weights.vgg16=FILE representation=0 originality=false
    python benchmarks/feature_agreement.py RUN/evaluation/scores.json
"""

import argparse
import itertools
import json
from pathlib import Path

from scipy import stats

from artdiff.evaluation.results import FLOOR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path)
    args = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for one in json.loads(args.scores.read_text())["scores"]:
        if one["label"] is None:
            found.setdefault(one["set"], {})[one["features"]] = one["frechet"]["value"]
    networks = list(found[FLOOR])
    floor = found.pop(FLOOR)
    found = {tuple(values.values()): (name, values) for name, values in found.items()}.values()  # each checkpoint once
    print("Fréchet distances of real pictures:", ", ".join(f"{name} {floor[name]:.4g}" for name in networks))
    for name, values in sorted(found, key=lambda one: one[1][networks[0]]):
        print(f"{name:40s}", *(f"{values[network]:10.4g}" for network in networks))
    for one, other in itertools.combinations(networks, 2):
        pairs = [[values[network] for _, values in found] for network in (one, other)]
        rank, p_value = stats.spearmanr(*pairs)
        print(f"{one} and {other}: rank correlation {rank:.3f} over {len(found)} painters (p = {p_value:.2g})")


if __name__ == "__main__":
    main()
