"""Whether a painter copies what it was trained on: how near its pictures are to training pictures, compared with how
near held-out pictures are, which cannot be copies.

For each picture ρ = d₁/d₂, its distance to the nearest training picture over that to the next one of another group of
look-alikes. A picture of its own has ρ near 1; a copy is far nearer to one picture than to any other. What counts as
near is set on the held-out pictures: at most 1 % of them have a ρ below the threshold. The fixed rule ρ < 1/3 stands
beside it, and so does the three-sample test of Meehan et al. (arXiv:2004.05675), which is below 0 if painted pictures
lie nearer to training pictures than held-out ones do.

Two spaces are looked at, neither of them the model's own: *pixels*, the picture and its mirror image at 32 pixels, and
*features*, the first 64 principal components of what a network sees. What such distances can show is a rate of copies
above that of held-out pictures, and nothing stronger (arXiv:2306.04675): they miss what changes both spaces.
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
"""Of the pixels that are compared."""

COMPONENTS = 64
MOST_COMPONENTS = 5000
"""Pictures that principal components are computed from, at most."""

HELD_OUT_BELOW = 0.01
"""The share of held-out pictures that may lie below the threshold."""

FIXED = 1 / 3
"""The usual rule for a copy."""

PAIRS = 16
"""Nearest pairs that are shown."""

AT_ONCE = 500
"""Pictures that are compared with all training pictures together."""

REFERENCE = "originality.npz"
"""The file of a `Reference`, in the folder of an evaluation."""

CELL = 50
"""Pictures of a cell of the three-sample test, on average."""


class Space(NamedTuple):
    """Sets of pictures as points: `train` (V,T,D) has V views of each training picture, `held_out` and `painted` (N,D)
    one.
    """

    name: str
    train: Tensor
    held_out: Tensor
    painted: Tensor


class Share(NamedTuple):
    """`below` of `total` pictures lie below a threshold; `low` and `high`: 95 % interval of Clopper and Pearson."""

    below: int
    total: int
    low: float
    high: float

    @classmethod
    def of(cls, below: int, total: int) -> "Share":
        return cls(below, total, *Interval.of_share(below, total)[1:])


@dataclass(frozen=True)
class Originality:
    """What one space says.

    `threshold` for ρ; the shares of painted and held-out pictures below it; `p_value`, how likely so many painted ones
    are if they are no nearer than held-out ones (Fisher's exact test, one-sided); the shares below 1/3; `three_sample`,
    in standard deviations, None if there are too few pictures; and for each painted picture its ρ and the place of the
    nearest training picture.
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
        """Whether more painted pictures are near than chance would give."""
        return self.p_value < 0.05

    def __str__(self) -> str:
        share, theirs = self.painted, self.held_out
        verdict = "above" if self.is_above else "not above"
        return (
            f"{self.space}: {share.below:,} of {share.total:,} painted pictures are as near to a training picture as "
            f"{theirs.below:,} of {theirs.total:,} held-out ones (ratio below {self.threshold:.2f}): copy rate "
            f"{share.low:.1%} to {share.high:.1%}, {verdict} held-out (p = {self.p_value:.2g}); "
            f"{self.painted_fixed.below:,} below 1/3"
        )


class Nearness(NamedTuple):
    """How near a picture lies to a training picture by its pixels: ρ, and the file of that picture, if it is known."""

    ratio: float
    file: str | None


@dataclass(frozen=True)
class Reference:
    """What a painted picture is compared with later: the training pictures float32 (T,3·32·32) as `pixels` gives them,
    the group of look-alikes of each int64 (T,), the threshold of ρ, and their files, if they are known.
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
        """What `save` wrote; None if there is nothing. Raises `UserError` if it is damaged."""
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
        """How near an RGB picture lies to a training picture."""
        square = ImageOps.fit(picture, (min(picture.size),) * 2) if picture.width != picture.height else picture
        point = pixels(torch.from_numpy(np.array(square)).permute(2, 0, 1)[None])
        ratio, place, _ = ratios(point, self._views, self.groups)
        return Nearness(ratio.item(), self.files[int(place)] if self.files else None)


def spaces(small: Sequence[Tensor], seen: Sequence[Tensor], network: FeatureNetwork) -> list[Space]:
    """The two spaces, from what `pixels` gives for the training, held-out and painted pictures, and from what a network
    sees in them, float (N,D).
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
    """What a space says; `groups` has a number for each training picture, the same for those that look alike."""
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
    """ρ of points (N,D), the place of the nearest training picture int64 (N,), and the distance to it (N,).

    `train` (V,T,D) has views of each training picture, of which the nearest counts; the second distance is to a picture
    of another `group` int64 (T,).
    """
    found = []
    for part in points.split(AT_ONCE):
        apart = torch.stack([torch.cdist(part, view) for view in train]).amin(0)  # (B,T)
        first, place = apart.min(1)
        apart[group[place][:, None] == group] = torch.inf
        second = apart.amin(1)
        ratio = torch.where(second.isinf(), 1.0, first / second.clamp(min=1e-12))  # inf: all look alike
        found.append((ratio, place, first))
    ratio, place, first = (torch.cat(part) for part in zip(*found, strict=True))
    return ratio, place, first


def three_sample(space: Space, painted: Tensor, held_out: Tensor) -> float | None:
    """The test statistic C_T: over cells of training pictures, the mean z-score of the rank-sum test between the
    distances (N,) of painted and of held-out pictures to their nearest training pictures. None if no cell has enough.
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
    """uint8 (B,3,H,W) → float32 (B,3·32·32), the picture in [0,1] at 32 pixels."""
    unit = images.signed_to_unit(images.to_signed(image))
    return F.interpolate(unit, size=(SIDE, SIDE), mode="area").flatten(1)


def mirrored(points: Tensor) -> Tensor:
    """What `pixels` gives for the mirror image, (B,3·32·32)."""
    return points.unflatten(1, (3, SIDE, SIDE)).flip(-1).flatten(1)


def components(train: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (D,) of features (T,D) and their first principal components (D,64), from at most `MOST_COMPONENTS`."""
    some = train[:: max(1, -(-len(train) // MOST_COMPONENTS))].double()
    mean = some.mean(0)
    _, _, vectors = torch.linalg.svd(some - mean, full_matrices=False)
    return mean.float(), vectors[:COMPONENTS].T.float()
