"""Scores, built on torchmetrics. Pictures come in as signed floats (B,3,H,W)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from artdiff.images import signed_to_unit


class ReconstructionScores(MetricCollection):
    """`psnr` in dB and `ssim` (Wang et al. 2004, Gaussian window of 11 px), each the mean of the pictures' own scores.

    Both are taken on [0,1] after clamping, the range in which a picture is shown, and in float32: SSIM subtracts what
    is nearly equal, and under bf16 autocast would come out 0.07 too low.
    """

    def __init__(self, *, prefix: str) -> None:
        scores: dict[str, Metric | MetricCollection] = {
            "psnr": PeakSignalNoiseRatio(data_range=(0.0, 1.0), dim=(1, 2, 3)),
            "ssim": StructuralSimilarityIndexMeasure(data_range=1.0),
        }
        super().__init__(scores, prefix=prefix, compute_groups=False)

    def update(self, picture: Tensor, target: Tensor) -> None:  # type: ignore[override]
        with torch.autocast(target.device.type, enabled=False):
            super().update(signed_to_unit(picture.float()).clamp(0, 1), signed_to_unit(target.float()))


class TimeBands(Metric):
    """The means of some terms, each (B,), over the quarters of time that they were taken in; none for an empty one.

    Losses of different noise schedules do not compare, but those of the same band do.
    """

    BANDS = 4

    sums: Tensor
    counts: Tensor

    def __init__(self, terms: Sequence[str], *, prefix: str) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self.prefix = prefix
        self.add_state("sums", torch.zeros(len(self.terms), self.BANDS), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(self.BANDS), dist_reduce_fx="sum")

    def update(self, time: Tensor, *values: Tensor) -> None:
        band = (time * self.BANDS).long().clamp(max=self.BANDS - 1)
        self.counts.index_add_(0, band, torch.ones_like(time))
        for sums, value in zip(self.sums, values, strict=True):
            sums.index_add_(0, band, value.float())

    def compute(self) -> dict[str, Tensor]:
        return {
            f"{self.prefix}_time/{term}_{band / self.BANDS:.2f}-{(band + 1) / self.BANDS:.2f}": sums[band] / count
            for term, sums in zip(self.terms, self.sums, strict=True)
            for band, count in enumerate(self.counts)
            if count
        }
