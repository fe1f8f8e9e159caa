"""What a denoiser is trained on: a pure function of a batch and random numbers."""

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
    """What an output is compared with: `image` ImageNet-normalised (B,3,H,W).

    `index` int64 (B,) on the CPU says which pictures of the data set these are; None if their pixels change from epoch
    to epoch, so that nothing about them can be cached.
    """

    image: Tensor
    index: Tensor | None = None  # type: ignore[assignment]  # hides `tuple.index`


class Losses(NamedTuple):
    """`loss`, a scalar to train on, and the named terms it is made of, each (B,)."""

    loss: Tensor
    terms: dict[str, Tensor]


class Loss(Protocol):
    """How to compare an output with its target, both ImageNet-normalised (B,3,H,W).

    `weight` (B,) multiplies the error of each picture. `gate` (B,), 0 or 1, selects the pictures for terms that need a
    recognisable picture.
    """

    def __call__(
        self, output: Tensor, target: Target, *, weight: Tensor | None = None, gate: Tensor | None = None
    ) -> Losses: ...


@runtime_checkable
class LatentLoss(Protocol):
    """A loss that also compares latents; any other one sees decoded pictures."""

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
        """Compare latents (B,C,H/F,W/F). `decode` makes them pictures as `Loss` sees them, `target` is theirs."""


class Batch(Protocol):
    """Signed pictures (B,3,H,W), their labels int64 (B,), the words of their captions (B,W,P) if they have any, and
    their `index` as in `Target`.
    """

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
    """Denoise pictures at random times; the loss is weighted and gated by time.

    Args:
        codec: between pictures and what the network denoises.
        time_mean, time_std: of the normal distribution whose sigmoid gives the training times.
        gate: the time from which on the perceptual term counts.
        label_dropout: share of the labels replaced by the null label, with the captions.
        caption_dropout, word_dropout: as `conditioning.dropped` has them.
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
        """The loss of `network` on a batch, with all random numbers from `rng`.

        `clean` are the pictures' latents, if they are known already.
        """
        time = path.sampled_times(rng.normal(TIMES), mean=self.time_mean, std=self.time_std)
        clean = self.codec.encode(batch.image) if clean is None else clean
        noise = rng.normal(NOISE, clean.shape[1:])
        given = self.dropped(batch, rng)
        noisy = path.interpolated(clean, noise, time)
        return self.compare(network(noisy, time, *given), clean, batch, time, loss)

    def dropped(self, batch: Batch, rng: PictureRandom) -> Conditions:
        """What the pictures of a training batch are conditioned on."""
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
        """The loss at given times (B,) and noise, with all labels kept: what is validated."""
        clean = self.codec.encode(batch.image) if clean is None else clean
        noisy = path.interpolated(clean, noise, time)
        return self.compare(network(noisy, time, *conditions(batch)), clean, batch, time, loss)

    def compare(self, denoised: Tensor, clean: Tensor, batch: Batch, time: Tensor, loss: Loss) -> Denoised:
        """The loss of estimates made at `time` (B,), and its terms with `mse`, the error of what is denoised: signed
        pictures, or latents.
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
        """Latents as ImageNet-normalised pictures (B,3,H,W)."""
        return images.signed_to_imagenet(self.codec.decode(latent))
