"""Does a painter copy its training pictures? Compares the distance of painted pictures to the training pictures with
that of held-out pictures, which cannot be copies.

For each picture ρ = d₁/d₂: its distance to the nearest training picture, divided by the distance to the nearest one
that is no near-duplicate of that. ρ of an original picture is near 1; a copy is far nearer to one picture than to any
other. The threshold is set on the held-out pictures: at most 1 % of them have a ρ below it. Also reported are the fixed
rule ρ < 1/3, and the three-sample test of Meehan et al. (arXiv:2004.05675), whose statistic is below 0 if painted
pictures lie nearer to training pictures than held-out ones do.

Distances are computed in two spaces that do not depend on the model: *pixels*, the picture and its mirror image at
32 pixels, and *features*, the first 64 principal components of a network's features. Such distances can show that
copies are more frequent than among held-out pictures, and nothing stronger (arXiv:2306.04675): a copy that is changed
in both spaces is missed.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from scipy import stats
from scipy.cluster.vq import kmeans2
from torch import Tensor

from artdiff import UserError, images
from artdiff.evaluation.distances import Interval
from artdiff.evaluation.features import FeatureNetwork
from artdiff.files import write
from artdiff.ingest.tables import decoded, encoded

SIDE = 32
"""Width and height at which pixels are compared."""

COMPONENTS = 64
MOST_COMPONENTS = 5000
"""The largest number of pictures from which principal components are computed."""

HELD_OUT_BELOW = 0.01
"""The share of held-out pictures that may lie below the threshold."""

FIXED = 1 / 3
"""The usual rule for a copy."""

PAIRS = 16
"""How many of the nearest pairs are shown."""

AT_ONCE = 500
"""Pictures in a batch, which is compared with all training pictures."""

REFERENCE = "originality.npz"
"""The file of a `Reference`, in an evaluation's folder."""

CELL = 50
"""Average number of pictures in a cell of the three-sample test."""


class Space(NamedTuple):
    """Sets of pictures as points: `train` (V,T,D) has V views of each training picture, `held_out` and `painted` (N,D)
    have one view.
    """

    name: str
    train: Tensor
    held_out: Tensor
    painted: Tensor


class Share(NamedTuple):
    """`below` of `total` pictures lie below a threshold; `low` and `high` are the 95 % Clopper-Pearson interval."""

    below: int
    total: int
    low: float
    high: float

    @classmethod
    def of(cls, below: int, total: int) -> "Share":
        return cls(below, total, *Interval.of_share(below, total)[1:])


@dataclass(frozen=True)
class Originality:
    """The result in one space.

    `painted` and `held_out` are the shares of pictures whose ρ is below `threshold`, the `_fixed` ones those below 1/3.
    `p_value` is that of Fisher's exact test, one-sided: the probability of so many painted pictures below the threshold
    if they are no nearer than held-out ones. `three_sample` is in standard deviations, None if there are too few
    pictures. `ratios` has ρ of each painted picture, `nearest` the index of the training picture nearest to it.
    """

    space: str
    threshold: float
    painted: Share
    held_out: Share
    p_value: float
    painted_fixed: Share
    held_out_fixed: Share
    three_sample: float | None
    ratios: list[float]
    nearest: list[int]

    @property
    def is_above(self) -> bool:
        """Whether significantly more painted than held-out pictures lie below the threshold."""
        return self.p_value < 0.05

    def __str__(self) -> str:
        share, theirs = self.painted, self.held_out
        verdict = "above" if self.is_above else "not above"
        return (
            f"{self.space}: {share.below:,} of {share.total:,} painted pictures lie suspiciously near to a training "
            f"picture (ratio below {self.threshold:.2f}), {theirs.below:,} of {theirs.total:,} held-out ones: "
            f"copy rate {share.low:.1%} to {share.high:.1%}, {verdict} held-out (p = {self.p_value:.2g}); "
            f"{self.painted_fixed.below:,} below 1/3"
        )


class Nearness(NamedTuple):
    """ρ of a picture in pixel space, and the file of the nearest training picture, if it is known."""

    ratio: float
    file: str | None


@dataclass(frozen=True)
class Reference:
    """What pictures that are painted later are compared with: the training pictures as `pixels` returns them, float32
    (T,3·32·32), the group of near-duplicates of each, int64 (T,), the threshold of ρ, and the files, if they are known.
    """

    train: Tensor
    groups: Tensor
    threshold: float
    files: list[str]

    def save(self, folder: Path) -> None:
        """Write it to a folder. Raises `UserError` if that fails."""
        content = io.BytesIO()
        np.savez(
            content,
            train=(self.train * 255).round().to(torch.uint8).numpy(),
            groups=self.groups.numpy(),
            threshold=self.threshold,
            files=np.array([encoded(name) for name in self.files], dtype=np.bytes_),
        )
        write(folder / REFERENCE, content.getvalue())

    @classmethod
    def load(cls, folder: Path) -> "Reference | None":
        """Read what `save` wrote; None if there is no file. Raises `UserError` if it is damaged."""
        path = folder / REFERENCE
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as found:
                train, groups = torch.from_numpy(found["train"]), torch.from_numpy(found["groups"])
                files = [decoded(name) for name in found["files"].tolist()]
                return cls(train.float() / 255, groups, float(found["threshold"]), files)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is damaged ({error}): evaluate the run again, or remove it") from None

    @cached_property
    def _views(self) -> Tensor:
        return torch.stack([self.train, mirrored(self.train)])

    def nearness(self, picture: Image.Image) -> Nearness:
        """Compare an RGB picture with the training pictures."""
        square = ImageOps.fit(picture, (min(picture.size),) * 2) if picture.width != picture.height else picture
        point = pixels(torch.from_numpy(np.array(square)).permute(2, 0, 1)[None])
        ratio, place, _ = ratios(point, self._views, self.groups)
        return Nearness(ratio.item(), self.files[int(place)] if self.files else None)


def spaces(small: Sequence[Tensor], seen: Sequence[Tensor], network: FeatureNetwork) -> list[Space]:
    """The pixel space and the feature space. `small` has what `pixels` returns for the training, held-out and painted
    pictures, `seen` their features, float (N,D).
    """
    train, held_out, painted = small
    standard = network.standardiser(seen[0])
    mean, directions = components(standard(seen[0]))
    points = [(standard(one) - mean) @ directions for one in seen]
    return [
        Space("pixels", torch.stack([train, mirrored(train)]), held_out, painted),
        Space(f"features of {network.name}", points[0][None], points[1], points[2]),
    ]


def originality(space: Space, groups: list[int]) -> Originality:
    """Test for copies in a space; `groups` has a number for each training picture, equal for near-duplicates."""
    group = torch.tensor(groups)
    painted, nearest, far = ratios(space.painted, space.train, group)
    held_out, _, held_out_far = ratios(space.held_out, space.train, group)
    allowed = int(HELD_OUT_BELOW * len(held_out))
    threshold = held_out.sort().values[allowed].item()  # so many are below it
    below, theirs = int((painted < threshold).sum()), int((held_out < threshold).sum())
    table = np.array([[below, len(painted) - below], [theirs, len(held_out) - theirs]])
    return Originality(
        space=space.name,
        threshold=threshold,
        painted=Share.of(below, len(painted)),
        held_out=Share.of(theirs, len(held_out)),
        p_value=float(stats.fisher_exact(table, alternative="greater").pvalue),
        painted_fixed=Share.of(int((painted < FIXED).sum()), len(painted)),
        held_out_fixed=Share.of(int((held_out < FIXED).sum()), len(held_out)),
        three_sample=three_sample(space, far, held_out_far),
        ratios=painted.tolist(),
        nearest=nearest.tolist(),
    )


def ratios(points: Tensor, train: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """ρ of points (N,D), the index of the nearest training picture int64 (N,), and the distance to it (N,).

    `train` (V,T,D) has V views of each training picture, of which the nearest counts. The second distance is to a
    picture of another `group` int64 (T,).
    """
    found = []
    for part in points.split(AT_ONCE):
        apart = torch.stack([torch.cdist(part, view) for view in train]).amin(0)  # (B,T)
        first, place = apart.min(1)
        apart[group[place][:, None] == group] = torch.inf
        second = apart.amin(1)
        ratio = torch.where(second.isinf(), 1.0, first / second.clamp(min=1e-12))  # inf: there is only one group
        found.append((ratio, place, first))
    ratio, place, first = (torch.cat(part) for part in zip(*found, strict=True))
    return ratio, place, first


def three_sample(space: Space, painted: Tensor, held_out: Tensor) -> float | None:
    """The test statistic C_T: the mean over cells of training pictures of the z-score of a rank-sum test. It compares
    the distances (N,) of painted and of held-out pictures to their nearest training pictures. None if no cell has
    enough pictures.
    """
    train = space.train[0].numpy()
    cells = max(1, min(len(train), len(space.held_out)) // CELL)
    centres, _ = kmeans2(train, cells, minit="++", seed=0)
    of_painted, of_held_out = (
        torch.cdist(points, torch.from_numpy(centres).to(points)).argmin(1)
        for points in (space.painted, space.held_out)
    )
    scores, weights = [], []
    for cell in range(cells):
        ours, theirs = painted[of_painted == cell], held_out[of_held_out == cell]
        if min(len(ours), len(theirs)) >= CELL // 5:
            rank_sum = stats.mannwhitneyu(ours.numpy(), theirs.numpy()).statistic
            count = len(ours) * len(theirs)
            scores.append((rank_sum - count / 2) / np.sqrt(count * (len(ours) + len(theirs) + 1) / 12))
            weights.append(len(theirs))
    return float(np.average(scores, weights=weights)) if scores else None


def pixels(image: Tensor) -> Tensor:
    """Scale pictures to 32 pixels: uint8 (B,3,H,W) → float32 (B,3·32·32) in [0,1]."""
    unit = images.signed_to_unit(images.to_signed(image))
    return F.interpolate(unit, size=(SIDE, SIDE), mode="area").flatten(1)


def mirrored(points: Tensor) -> Tensor:
    """Mirror the output of `pixels`, (B,3·32·32)."""
    return points.unflatten(1, (3, SIDE, SIDE)).flip(-1).flatten(1)


def components(train: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (D,) of features (T,D) and their first principal components (D,64), from at most `MOST_COMPONENTS`."""
    some = train[:: max(1, -(-len(train) // MOST_COMPONENTS))].double()
    mean = some.mean(0)
    _, _, vectors = torch.linalg.svd(some - mean, full_matrices=False)
    return mean.float(), vectors[:COMPONENTS].T.float()
