"""The article's network: a small convolutional encoder-decoder with additive skip connections.

Shape letters: B pictures, H and W pixels (multiples of 8).
"""

from torch import Tensor, nn


class ConvDiffusionModel(nn.Module):
    """Reconstructs a picture through a bottleneck of an eighth of its width and height.

    Attribute names and the order inside each `nn.Sequential` are the article's, so state_dicts work in both programs.
    742,659 parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enc1 = _down(3, 64)
        self.enc2 = _down(64, 128)
        self.enc3 = _down(128, 256)
        self.dec1 = _up(256, 128)
        self.dec2 = _up(128, 64)
        self.dec3 = nn.Sequential(_transposed(64, 3), nn.Sigmoid())

    def forward(self, image: Tensor) -> Tensor:
        """ImageNet-normalised pictures (B,3,H,W) → reconstructions (B,3,H,W) in [0,1]."""
        e1 = self.enc1(image)  # (B,64,H/2,W/2)
        e2 = self.enc2(e1)  # (B,128,H/4,W/4)
        e3 = self.enc3(e2)  # (B,256,H/8,W/8)
        d1 = self.dec1(e3) + e2  # (B,128,H/4,W/4)
        d2 = self.dec2(d1) + e1  # (B,64,H/2,W/2)
        return self.dec3(d2)  # (B,3,H,W)


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.BatchNorm2d(outputs),
        nn.MaxPool2d(2),
    )


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_transposed(inputs, outputs), nn.ReLU(inplace=True), nn.BatchNorm2d(outputs))


def _transposed(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    """(B,inputs,H,W) → (B,outputs,2·H,2·W)."""
    return nn.ConvTranspose2d(inputs, outputs, kernel_size=3, stride=2, padding=1, output_padding=1)
