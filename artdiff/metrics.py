"""Scores, built on torchmetrics. Pictures come in as signed floats (B,3,H,W)."""

from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from artdiff.images import signed_to_unit


class ReconstructionScores(MetricCollection):
    """`psnr` in dB and `ssim` (Wang et al. 2004, Gaussian window of 11 px), each the mean of the pictures' own scores.

    Both are taken on [0,1] after clamping, the range in which a picture is shown.
    """

    def __init__(self, *, prefix: str) -> None:
        scores: dict[str, Metric | MetricCollection] = {
            "psnr": PeakSignalNoiseRatio(data_range=(0.0, 1.0), dim=(1, 2, 3)),
            "ssim": StructuralSimilarityIndexMeasure(data_range=1.0),
        }
        super().__init__(scores, prefix=prefix, compute_groups=False)

    def update(self, picture: Tensor, target: Tensor) -> None:  # type: ignore[override]
        super().update(signed_to_unit(picture).float().clamp(0, 1), signed_to_unit(target))
