"""Train a codec: encode pictures to latents and decode them again."""

from typing import Any

import torch
from torch import Tensor

from artdiff import images
from artdiff.data.loader import Batch
from artdiff.diffusion.noise import LATENTS, NOISE, PictureRandom
from artdiff.diffusion.path import broadcast
from artdiff.losses import Loss, Losses, Target
from artdiff.tasks.base import Task
from artdiff.tasks.metrics import ReconstructionScores


class Autoencoding(Task):
    """Train an autoencoder with the hybrid loss.

    Args:
        network: the codec, with `encode` and `decode` as in `artdiff.diffusion.codec.Codec`.
        optimizer: for its weights.
        scheduler: of the learning rate, once an epoch; None keeps it constant.
        latent_noise: before decoding, latents get noise of a standard deviation between 0 and this, drawn for each
            picture. It makes the decoder robust to small errors of a painter (l-DeTok, arXiv:2507.15856).
        seed: of the noise.
        loss: only needed to train.
    """

    network_methods = ("encode", "decode")

    def __init__(
        self,
        *,
        network: dict[str, Any],
        optimizer: dict[str, Any],
        scheduler: dict[str, Any] | None,
        latent_noise: float,
        seed: int = 0,
        loss: Loss | None = None,
    ) -> None:
        super().__init__(network=network, optimizer=optimizer, scheduler=scheduler, loss=loss, seed=seed)
        self.save_hyperparameters(ignore=["loss", "seed"], logger=False)
        self.latent_noise = latent_noise
        self.scores = ReconstructionScores(prefix="val/")

    def forward(self, image: Tensor) -> Tensor:
        """Signed pictures (B,3,H,W), H and W multiples of the factor → their reconstructions in [-1,1]."""
        return _shown(self._decoded(image))

    def losses(self, batch: Batch) -> Losses:
        latent: Tensor = self.network.encode(batch.image)  # type: ignore[operator]
        rng = PictureRandom(self.seed, self.picture_numbers(batch))
        std = broadcast(rng.uniform(LATENTS) * self.latent_noise, latent)
        noisy = latent + std * rng.normal(NOISE, latent.shape[1:])
        return self._compare(self.network.decode(noisy), batch)  # type: ignore[operator]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The losses, PSNR and SSIM of whole pictures, without noise."""
        count = len(batch.image)
        decoded = self._decoded(batch.image)
        self.log_validation(self._compare(decoded, batch), count)
        self.scores.update(_shown(decoded), batch.image)
        self.log_dict(self.scores, batch_size=count)

    @torch.no_grad()
    def sample_grid(self, image: Tensor) -> list[Tensor]:
        """A row of pictures, and a row of their reconstructions."""
        return [image, self(image)]

    def captions(self) -> list[str]:
        return ["pictures", "what their latents decode to"]

    def _decoded(self, image: Tensor) -> Tensor:
        return self.network.decode(self.network.encode(image))  # type: ignore[operator]

    def _compare(self, decoded: Tensor, batch: Batch) -> Losses:
        target = Target(images.signed_to_imagenet(batch.image), batch.index)
        return self.needed_loss(images.signed_to_imagenet(decoded), target)


def _shown(decoded: Tensor) -> Tensor:
    """Decoder output → signed float32 pictures in [-1,1]."""
    return decoded.float().clamp(-1, 1)
