"""LPIPS: how far two pictures are apart in VGG16's features, as people would judge (arXiv:1801.03924)."""

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.functional.image.lpips import _NoTrainLpips  # the public class always downloads its own weights

from artdiff.evaluation.features import vgg16_layers


class Lpips(Metric):
    """The mean over pictures; 0 is equal. The learned weights of the channels come with torchmetrics.

    Args:
        weights: VGG16's: `imagenet` (torchvision's, downloaded once) or a file of all its convolutions.

    `source` says which were taken. Raises `UserError` if they cannot be had.
    """

    total: Tensor
    count: Tensor

    def __init__(self, weights: str) -> None:
        super().__init__()
        features, self.source = vgg16_layers(weights, "relu5_3", setting="lpips")
        self.network = _NoTrainLpips(net="vgg", pnet_rand=True)
        _take(self.network.net, features)
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, picture: Tensor, target: Tensor) -> None:
        """Take in signed pictures (B,3,H,W)."""
        with torch.autocast(target.device.type, enabled=False):
            self.total += self.network(picture.float().clamp(-1, 1), target.float()).sum()
        self.count += len(picture)

    def compute(self) -> Tensor:
        return self.total / self.count


def _take(network: nn.Module, features: nn.Sequential) -> None:
    """Put VGG16's layers in their places: the slices of `network` call them by their numbers in VGG16."""
    for part in network.children():
        for number, layer in part.named_children():
            if isinstance(layer, nn.Conv2d):
                layer.load_state_dict(features[int(number)].state_dict())
