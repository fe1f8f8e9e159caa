"""Metrics, built on torchmetrics. Pictures are signed floats (B,3,H,W)."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from artdiff.images import signed_to_unit


class ReconstructionScores(MetricCollection):
    """`psnr` in dB and `ssim` (Wang et al. 2004, Gaussian window of 11 px), each averaged over pictures.

    Pictures are clamped to [0,1] first. Computed in float32: SSIM subtracts nearly equal numbers, and under bf16
    autocast would be 0.07 too low.
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


class TimeBins(Metric):
    """The mean of each term in each of four time bins; empty bins are left out.

    Mean losses under different noise schedules cannot be compared, but those in the same time bin can.
    """

    BINS = 4

    counts: Tensor

    def __init__(self, *, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix
        self.terms: list[str] = []
        self.add_state("counts", torch.zeros(self.BINS), dist_reduce_fx="sum")

    def update(self, time: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Add the terms, each (B,), of pictures at `time` (B,)."""
        index = (time * self.BINS).long().clamp(max=self.BINS - 1)
        self.counts.index_add_(0, index, torch.ones_like(time))
        for name, value in terms.items():
            if name not in self.terms:
                self.terms.append(name)
                self.add_state(f"sum_{name}", torch.zeros(self.BINS, device=time.device), dist_reduce_fx="sum")
            getattr(self, f"sum_{name}").index_add_(0, index, value.detach().float())

    def compute(self) -> dict[str, Tensor]:
        return {
            f"{self.prefix}_time/{name}_{index / self.BINS:.2f}-{(index + 1) / self.BINS:.2f}": total / count
            for name in self.terms
            for index, (total, count) in enumerate(zip(getattr(self, f"sum_{name}"), self.counts, strict=True))
            if count
        }
