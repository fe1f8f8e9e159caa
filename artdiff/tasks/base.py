"""Base of all tasks: network, optimizer, loss, checks for NaN, and metadata of checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import lightning.pytorch as L
import numpy as np
import torch
from hydra.utils import instantiate
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from artdiff import UserError, __version__
from artdiff.compiled import FixedBatch
from artdiff.data.loader import Batch
from artdiff.losses import Loss, Losses, PerceptualLoss
from artdiff.ranks import Share
from artdiff.sharding import is_sharded, shard, whole

FORMAT = 1
"""Version of the checkpoint format. Increase it if an older artdiff could not load a new checkpoint."""


class Task(L.LightningModule, ABC):
    """Trains `network` with a loss.

    `network`, `optimizer` and `scheduler` are plain `_target_` mappings. The checkpoint stores them, so it is enough to
    paint with. `loss` is only needed to train, and is not stored. `seed` is the training seed. `built_with` holds
    further arguments for the network.

    An optimizer step may accumulate the gradients of several batches. Hooks for a step run after the last of them.
    """

    network: torch.nn.Module
    network_methods: tuple[str, ...] = ()
    """Methods of the network that training calls, if it does not call `forward`. FSDP needs them."""
    failed_at: Tensor
    grad_norm: Tensor
    """Norm of all gradients of the latest step, before clipping. It is on the device, and reading it synchronises."""

    def __init__(
        self,
        *,
        network: dict[str, Any],
        optimizer: dict[str, Any],
        scheduler: dict[str, Any] | None,
        loss: Loss | None,
        seed: int,
        built_with: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = instantiate(network, _convert_="all", **(built_with or {})).to(memory_format=torch.channels_last)
        self.train_network = FixedBatch(self.network)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.loss = loss
        self.seed = seed
        self.seen = 0
        """Images trained on so far, over all ranks."""
        self.step = Step()
        self.validated_sums: Tensor | None = None
        """With several ranks: how many pictures this rank has validated, and the sums of their losses."""
        self.validated_terms: list[str] = []
        self.register_buffer("failed_at", torch.tensor(-1), persistent=False)  # the first bad step, on the device
        self.register_buffer("grad_norm", torch.tensor(torch.nan), persistent=False)

    @abstractmethod
    def losses(self, batch: Batch) -> Losses:
        """The losses of a training batch."""

    @abstractmethod
    def sample_grid(self, image: Tensor) -> list[Tensor]:
        """A preview of what the model does with validation pictures (B,3,H,W): rows of signed pictures (B,3,H,W)."""

    def captions(self) -> list[str]:
        """A caption for each row of `sample_grid`; empty for none."""
        return []

    def facts(self) -> dict[str, object]:
        """Facts about the model for the description of the run."""
        return {"parameters": sum(weight.numel() for weight in self.network.parameters()), **self._loss_facts()}

    def configure_model(self) -> None:
        """Shard the network over the devices if Lightning's strategy is FSDP."""
        mesh = self.device_mesh
        if mesh is not None and not is_sharded(self.network):
            shard(self.network, mesh["data_parallel"], methods=self.network_methods)

    @property
    def grid_takes_all_ranks(self) -> bool:
        """Whether all ranks must call `sample_grid`, since the weights are sharded."""
        return is_sharded(self.network)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = instantiate(self.optimizer)(self.network.named_parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": instantiate(self.scheduler)(optimizer)}

    @property
    def perceptual(self) -> PerceptualLoss | None:
        """The perceptual term of the loss if it is a `PerceptualLoss`, else None."""
        found = getattr(self.loss, "perceptual", None)
        return found if isinstance(found, PerceptualLoss) else None

    @property
    def reads_values(self) -> bool:
        """True if this step's values may be read. Reading synchronises a GPU, so there only on logging steps."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return self.device.type != "cuda" or (every > 0 and (self.global_step + 1) % every == 0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        torch.manual_seed(self._batch_seed())  # for dropout; noise and times use `PictureRandom`
        losses = self.losses(batch)
        share = batch.share or Share(len(batch.image), len(batch.image))
        self.seen += share.total
        return self.step.add(losses, share, world=self.trainer.world_size, keep_terms=self.reads_values)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Skip the update if the loss or a gradient is NaN or infinite; raise at the next logging step.

        A fused optimizer skips on the device, without synchronising. In 16-bit precision, gradients may overflow;
        Lightning itself skips such a step.
        """
        step, self.step = self.step, Step()
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
        correction = step.correction(self.trainer.accumulate_grad_batches)
        if correction != 1:
            torch._foreach_mul_(gradients, correction)
        self.grad_norm = whole(torch.nn.utils.get_total_norm(gradients))
        has_failed = ~step.is_finite
        if self.trainer.world_size > 1:  # gradients are averaged over ranks, the loss is this rank's
            has_failed = self.on_all_ranks(has_failed.float(), "max") > 0
        is_fused = all(group.get("fused") for group in optimizer.param_groups)
        if self.trainer.precision != "16-mixed":
            has_failed = has_failed | ~torch.isfinite(self.grad_norm)
            if is_fused:
                optimizer.found_inf = has_failed.float()  # type: ignore[attr-defined]
        self._remember(has_failed)
        if self.reads_values:
            self.log_terms("train", self._means(step), step.total)
        if self.reads_values or not is_fused:
            self._raise_if_failed()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of all gradients. Lightning's own hook does not accept fused optimizers."""
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grads_with_norm_(self.network.parameters(), gradient_clip_val, self.grad_norm)

    def on_validation_epoch_end(self) -> None:
        self.failed_at = self.on_all_ranks(self.failed_at, "max")
        self._raise_if_failed()
        if self.validated_sums is not None:  # Lightning's mean over ranks rounds the count per rank to an integer
            count, *sums = self.on_all_ranks(self.validated_sums, "sum")
            self.log_terms("val", {name: one / count for name, one in zip(self.validated_terms, sums, strict=True)}, 1)
            self.validated_sums = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._raise_if_failed()
        about = {"format": FORMAT, "version": __version__, "task": type(self).__name__, "seen": self.seen}
        checkpoint["artdiff"] = {**about, **self._loss_facts()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seen = checkpoint.get("artdiff", {}).get("seen", 0)  # version 0.1 did not store it for reconstructions

    def picture_numbers(self, batch: Batch) -> Tensor:
        """The index of each picture in the order of training over all ranks, int64 (B,), for a training batch."""
        count, world = len(batch.image), self.trainer.world_size
        return torch.arange(count, device=batch.image.device) * world + (self.seen + self.global_rank)

    def log_terms(self, stage: Literal["train", "val"], means: Mapping[str, Tensor], count: int) -> None:
        """Log the loss and its terms, each the mean of `count` pictures."""
        for name, value in means.items():
            self.log(f"{stage}/{name}", value, batch_size=count)

    def log_validation(self, losses: Losses, count: int) -> None:
        """Log the losses of a validation batch. NaN and infinity are reported when the validation ends."""
        self._remember(~torch.isfinite(losses.loss))
        means = {"loss": losses.loss, **{name: value.mean() for name, value in losses.terms.items()}}
        if self.trainer.world_size == 1:
            self.log_terms("val", means, count)
            return
        sums = torch.stack([torch.ones_like(losses.loss), *means.values()]) * count
        self.validated_sums = sums if self.validated_sums is None else self.validated_sums + sums
        self.validated_terms = [*means]

    def on_all_ranks(self, value: Tensor, how: Literal["sum", "max"]) -> Tensor:
        """Elementwise sum or maximum over ranks. All ranks must call it."""
        if self.trainer.world_size == 1:
            return value
        return self.trainer.strategy.reduce(value.clone(), reduce_op=how)

    def _means(self, step: "Step") -> dict[str, Tensor]:
        """The losses of a step, averaged over the pictures of all ranks."""
        means = step.means()
        if self.trainer.world_size == 1:
            return means
        return dict(zip(means, self.on_all_ranks(torch.stack([*means.values()]), "sum"), strict=True))

    @property
    def needed_loss(self) -> Loss:
        """The loss. Asserts that the task was built with one."""
        assert self.loss is not None, "built without a loss: this model can paint but not be trained"
        return self.loss

    def _batch_seed(self) -> int:
        """A seed that depends on the run's seed, the images seen and the rank."""
        return int(np.random.SeedSequence((self.seed, self.seen, self.global_rank)).generate_state(1)[0])

    def _remember(self, has_failed: Tensor) -> None:
        """Store the number of the first failed step, without synchronising the device."""
        self.failed_at = torch.where(has_failed & (self.failed_at < 0), self.global_step, self.failed_at)

    def _raise_if_failed(self) -> None:
        step = int(self.failed_at)
        if step >= 0:
            raise UserError(
                f"the loss or a gradient is NaN or infinite at step {step:,}, so training cannot continue: "
                f"start again with a lower optimizer.lr or with trainer.precision=32-true"
            )

    def _loss_facts(self) -> dict[str, object]:
        return {"perceptual_weights": self.perceptual.source if self.perceptual is not None else "none"}


class Step:
    """Collects the batches of one optimizer step, so that its gradient is the mean over all pictures.

    Lightning divides the loss of each batch by the number of batches in a step, and its strategies average gradients
    over ranks. That is the mean over all pictures only if no batch is missing, all batches are equally large, and all
    ranks have equally many pictures. The last step of an epoch may break this. So the loss of each batch is multiplied
    by this rank's number of pictures, relative to an equal share of the step's first batch. Then the accumulated
    gradients are multiplied by `correction`.
    """

    def __init__(self) -> None:
        self.shares: list[Share] = []
        self.kept: list[dict[str, Tensor]] = []
        self.is_finite: Tensor

    def add(self, losses: Losses, share: Share, *, world: int, keep_terms: bool) -> Tensor:
        """Add the losses of a batch, or of this rank's part of it; returns the scaled loss for `backward`."""
        loss = losses.loss.detach()
        finite = torch.isfinite(loss)
        self.is_finite = self.is_finite & finite if self.shares else finite
        self.shares.append(share)
        if keep_terms:
            self.kept.append({"loss": loss, **{name: term.detach().mean() for name, term in losses.terms.items()}})
        scale = share.counted * world / self.shares[0].total
        return losses.loss if scale == 1 else losses.loss * scale

    @property
    def total(self) -> int:
        """Pictures of all batches, on all ranks."""
        return sum(share.total for share in self.shares)

    def correction(self, usual_batches: int) -> float:
        """The factor that turns the accumulated gradients into those of the mean over all pictures."""
        return usual_batches * self.shares[0].total / self.total

    def means(self) -> dict[str, Tensor]:
        """The loss and its terms, averaged over all pictures. With several ranks, this rank's summand of each mean."""
        counts = [share.counted for share in self.shares]
        if len(self.kept) == 1 and counts[0] == self.total:
            return self.kept[0]
        means = {}
        for name in self.kept[0]:
            values = torch.stack([terms[name] for terms in self.kept])
            means[name] = (values * values.new_tensor(counts)).sum() / self.total
        return means
