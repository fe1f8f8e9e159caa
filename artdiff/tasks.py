"""What is trained: LightningModules that take a step, log it, and know how to be loaded again."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning.pytorch as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from artdiff import UserError, __version__, images, networks
from artdiff.data.datamodule import Batch
from artdiff.losses import HybridLoss, Terms
from artdiff.metrics import ReconstructionScores

ARTICLE_NETWORK = {"_target_": "artdiff.networks.ConvDiffusionModel"}
ARTICLE_IMAGE_SIZE = 128


class Reconstruction(L.LightningModule):
    """The article's task: copy a picture through a bottleneck, under the hybrid loss.

    `network`, `optimizer` and `scheduler` are plain `_target_` mappings and are kept in the checkpoint, which is
    therefore enough to generate from. `loss` is only needed to train and is not kept.

    `ranges` says what the network's sigmoid output in [0,1] means. `published`: it is compared as it is with the
    ImageNet-normalised target (about -2.1 to 2.6), which it can never match, and is de-normalised to be shown.
    `mended`: it is a picture in [0,1], ImageNet-normalised before it is compared, shown as it is.
    """

    network: torch.nn.Module

    def __init__(
        self,
        *,
        network: dict[str, Any],
        optimizer: dict[str, Any],
        scheduler: dict[str, Any] | None,
        ranges: Literal["published", "mended"],
        loss: HybridLoss | None = None,
    ) -> None:
        super().__init__()
        if ranges not in ("published", "mended"):
            raise UserError(f"task.ranges must be published or mended, got {ranges}")
        self.save_hyperparameters(ignore=["loss"], logger=False)
        self.network = instantiate(network).to(memory_format=torch.channels_last)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.ranges = ranges
        self.loss = loss
        self.scores = ReconstructionScores(prefix="val/")

    def forward(self, image: Tensor) -> Tensor:
        """Signed pictures (B,3,H,W), H and W multiples of 8 → the signed pictures that the model makes of them."""
        return self._show(self.network(_normalised(image)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, _ = batch
        target = _normalised(image)
        terms = self._compare(self.network(target), target)
        self._log_terms("train", terms, len(image))
        return terms.loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        image, _ = batch
        target = _normalised(image)
        output = self.network(target)
        self._log_terms("val", self._compare(output, target), len(image))
        self.scores.update(self._show(output), image)
        self.log_dict(self.scores, batch_size=len(image), prog_bar=True)

    def sample_rows(self, image: Tensor) -> list[Tensor]:
        """Rows of signed pictures (B,3,H,W) for a grid: what goes in, over what comes out."""
        return [image, self(image)]

    def facts(self) -> dict[str, object]:
        """What a run's description says of the model."""
        return {"parameters": sum(weight.numel() for weight in self.network.parameters()), **self._features()}

    def check_fits(self, ckpt: Path) -> int:
        """The step that `ckpt` was saved at. Raises `UserError` unless training can carry on from it as configured."""
        found = _load(ckpt)
        if "hyper_parameters" not in found:
            raise UserError(f"ckpt={ckpt} holds weights alone; carrying on needs a checkpoint of artdiff.train's")
        for name, asked in self.hparams.items():
            trained = found["hyper_parameters"].get(name)
            if trained != asked:
                raise UserError(
                    f"ckpt={ckpt} was trained with {name} {trained}, got {asked}; a run is carried on with what it "
                    f"began with, or begun anew without ckpt"
                )
        return found["global_step"]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = instantiate(self.optimizer)(self.network.parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": instantiate(self.scheduler)(optimizer)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["artdiff"] = {"version": __version__, **self._features()}

    def _features(self) -> dict[str, object]:
        perceptual = self.loss.perceptual if self.loss is not None else None
        return {"perceptual_weights": perceptual.source if perceptual is not None else "none"}

    def _compare(self, output: Tensor, target: Tensor) -> Terms:
        assert self.loss is not None, "built without a loss: this model can paint but not be trained"
        return self.loss(images.imagenet_normalise(output) if self.ranges == "mended" else output, target)

    def _show(self, output: Tensor) -> Tensor:
        """The network's output (B,3,H,W) → signed pictures."""
        unit = images.imagenet_denormalise(output) if self.ranges == "published" else output
        return images.unit_to_signed(unit.float()).clamp(-1, 1)

    def _log_terms(self, stage: Literal["train", "val"], terms: Terms, batch_size: int) -> None:
        for name, value in terms._asdict().items():
            if value is not None:
                self.log(f"{stage}/{name}", value.detach(), batch_size=batch_size, prog_bar=name == "loss")


class Restored(NamedTuple):
    """A model ready to paint, and the picture size in pixels that it was trained at."""

    task: Reconstruction
    image_size: int


def restore(path: Path, *, ranges: Literal["published", "mended"] | None = None) -> Restored:
    """Load a Lightning checkpoint of artdiff's, or a bare state_dict as the article's program saves it.

    A bare state_dict does not say what its output means: it is taken for `published` unless `ranges` is given.
    Raises `UserError` where the file is neither.
    """
    found = _load(path)
    if "hyper_parameters" in found:
        try:
            settings, state = found["hyper_parameters"], found["state_dict"]
            image_size = found["datamodule_hyper_parameters"]["image_size"]
            _check_network(settings["network"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"ckpt={path} is no checkpoint of artdiff.train's: {error}") from None
        state = {key: value for key, value in state.items() if key.startswith("network.")}
    else:
        settings = {"network": ARTICLE_NETWORK, "optimizer": {}, "scheduler": None, "ranges": "published"}
        state = {f"network.{key}": value for key, value in found.items()}
        image_size = ARTICLE_IMAGE_SIZE
    task = Reconstruction(**settings | ({"ranges": ranges} if ranges else {}))
    try:
        task.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).partition(chr(10))[2].strip().partition(chr(10))[0]
        raise UserError(f"ckpt={path} does not fit {settings['network']['_target_']}: {reason}") from None
    return Restored(task.eval(), image_size)


def _check_network(network: dict[str, Any]) -> None:
    """Raise `ValueError` unless `network` calls one of ours with plain values: a file must not name other code."""
    values = [value for key, value in network.items() if key != "_target_"]
    ours = {f"artdiff.networks.{name}" for name in networks.__all__}
    if network["_target_"] not in ours or "_target_" in str(values):
        raise ValueError(f"it asks for {network}, expected one of artdiff.networks with plain values")


def _load(path: Path) -> dict[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's readers raise whatever a strange file makes of them
        reason = " ".join(f"{type(error).__name__} {error}".split())[:120]
        raise UserError(f"ckpt={path} cannot be read as a checkpoint: {reason}") from None
    if not isinstance(found, dict):
        raise UserError(f"ckpt={path} holds a {type(found).__name__}, expected a checkpoint or a state_dict")
    return found


def _normalised(image: Tensor) -> Tensor:
    return images.imagenet_normalise(images.signed_to_unit(image))
