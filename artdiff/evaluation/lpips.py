"""LPIPS: a perceptual distance between two pictures, from VGG16 features (arXiv:1801.03924)."""

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.functional.image.lpips import _NoTrainLpips  # the public class always downloads its own weights

from artdiff.evaluation.features import vgg16_layers


class Lpips(Metric):
    """The mean LPIPS over pictures; 0 means equal. The learned channel weights come with torchmetrics.

    Args:
        weights: weights of VGG16: `imagenet` (torchvision's, downloaded once) or a file with all its convolutions.

    `source` says which weights were used. Raises `UserError` if they are unavailable.
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
        """Add pictures (B,3,H,W) in [-1,1]."""
        with torch.autocast(target.device.type, enabled=False):
            self.total += self.network(picture.float().clamp(-1, 1), target.float()).sum()
        self.count += len(picture)

    def compute(self) -> Tensor:
        return self.total / self.count


def _take(network: nn.Module, features: nn.Sequential) -> None:
    """Copy VGG16's weights into `network`, whose slices name layers by their numbers in VGG16."""
    for part in network.children():
        for number, layer in part.named_children():
            if isinstance(layer, nn.Conv2d):
                layer.load_state_dict(features[int(number)].state_dict())
