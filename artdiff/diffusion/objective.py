"""The training objective of a denoiser: a pure function of a batch and random numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from artdiff import images
from artdiff.diffusion import path
from artdiff.diffusion.codec import Codec, Identity
from artdiff.diffusion.conditioning import Conditions, conditions, dropped
from artdiff.diffusion.noise import NOISE, TIMES, PictureRandom
from artdiff.diffusion.path import Network


class Target(NamedTuple):
    """The target of a loss: `image` ImageNet-normalised (B,3,H,W).

    `index` int64 (B,) on the CPU holds the pictures' indices in the data set. None means that their pixels are
    augmented, so nothing about them can be cached.
    """

    image: Tensor
    index: Tensor | None = None  # type: ignore[assignment]  # hides `tuple.index`


class Losses(NamedTuple):
    """`loss`, a scalar for `backward`, and its named terms, each (B,)."""

    loss: Tensor
    terms: dict[str, Tensor]


class Loss(Protocol):
    """Compares an output with its target, both ImageNet-normalised (B,3,H,W).

    `weight` (B,) multiplies the error of each picture. `gate` (B,), 0 or 1, selects the pictures for terms that make no
    sense on a very noisy estimate.
    """

    def __call__(
        self, output: Tensor, target: Target, *, weight: Tensor | None = None, gate: Tensor | None = None
    ) -> Losses: ...


@runtime_checkable
class LatentLoss(Protocol):
    """A loss that can also compare latents. Any other loss gets decoded pictures."""

    def of_latents(
        self,
        denoised: Tensor,
        clean: Tensor,
        *,
        decode: Callable[[Tensor], Tensor],
        target: Target,
        weight: Tensor,
        gate: Tensor,
    ) -> Losses:
        """Compare latents (B,C,H/F,W/F). `decode` turns them into ImageNet-normalised pictures to match `target`."""


class Batch(Protocol):
    """Signed pictures (B,3,H,W), labels int64 (B,), words of captions (B,W,P) or None, and `index` as in `Target`."""

    @property
    def image(self) -> Tensor: ...
    @property
    def label(self) -> Tensor: ...
    @property
    def words(self) -> Tensor | None: ...
    @property
    def index(self) -> Tensor | None: ...


class Denoised(NamedTuple):
    """`Losses` with the time (B,) that each picture was denoised at."""

    loss: Tensor
    terms: dict[str, Tensor]
    time: Tensor


@dataclass(frozen=True)
class Objective:
    """Denoise pictures at random times, with a loss that is weighted and gated by time.

    Args:
        codec: between pictures and the latents that the network denoises.
        time_mean, time_std: mean and standard deviation of the normal distribution whose sigmoid gives training times.
        gate: the perceptual term counts from this time on.
        label_dropout, caption_dropout, word_dropout: see `conditioning.dropped`.
    """

    codec: Codec
    time_mean: float
    time_std: float
    gate: float
    label_dropout: float
    caption_dropout: float = 0.0
    word_dropout: float = 0.0

    def __call__(
        self, network: Network, batch: Batch, rng: PictureRandom, loss: Loss, *, clean: Tensor | None = None
    ) -> Denoised:
        """The training loss of `network` on a batch, with all random numbers from `rng`.

        `clean` may hold the pictures' latents; None encodes them.
        """
        time = path.sampled_times(rng.normal(TIMES), mean=self.time_mean, std=self.time_std)
        clean = self.codec.encode(batch.image) if clean is None else clean
        noise = rng.normal(NOISE, clean.shape[1:])
        given = self.dropped(batch, rng)
        noisy = path.interpolated(clean, noise, time)
        return self.compare(network(noisy, time, *given), clean, batch, time, loss)

    def dropped(self, batch: Batch, rng: PictureRandom) -> Conditions:
        """The conditions of a training batch, some of them dropped."""
        shares = {"caption_dropout": self.caption_dropout, "word_dropout": self.word_dropout}
        return dropped(batch, rng, label_dropout=self.label_dropout, **shares)

    def at(
        self,
        network: Network,
        batch: Batch,
        *,
        time: Tensor,
        noise: Tensor,
        loss: Loss,
        clean: Tensor | None = None,
    ) -> Denoised:
        """The loss at given times (B,) and noise, without dropping conditions: for validation."""
        clean = self.codec.encode(batch.image) if clean is None else clean
        noisy = path.interpolated(clean, noise, time)
        return self.compare(network(noisy, time, *conditions(batch)), clean, batch, time, loss)

    def compare(self, denoised: Tensor, clean: Tensor, batch: Batch, time: Tensor, loss: Loss) -> Denoised:
        """The loss of the estimates `denoised` at `time` (B,). Its terms also hold `mse`, the plain MSE of latents (or
        of signed pictures, without a codec).
        """
        target = Target(images.signed_to_imagenet(batch.image), batch.index)
        weight, gate = path.weight(time), path.gate(time, opens=self.gate)
        if isinstance(loss, LatentLoss) and not isinstance(self.codec, Identity):
            losses = loss.of_latents(denoised, clean, decode=self._imagenet, target=target, weight=weight, gate=gate)
        else:
            losses = loss(self._imagenet(denoised), target, weight=weight, gate=gate)
        mse = (denoised.detach() - clean).square().flatten(1).mean(dim=1)
        return Denoised(losses.loss, {**losses.terms, "mse": mse}, time)

    def _imagenet(self, latent: Tensor) -> Tensor:
        """Decode latents to ImageNet-normalised pictures (B,3,H,W)."""
        return images.signed_to_imagenet(self.codec.decode(latent))
