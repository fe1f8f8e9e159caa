"""Score a painter while it trains: the distance of its pictures to the held-out pictures."""

import logging
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor

from artdiff import UserError
from artdiff.data.base import PictureDataModule
from artdiff.evaluation import distances, features, samples
from artdiff.evaluation.features import FeatureNetwork
from artdiff.ingest.decode import Transform
from artdiff.painter import Painter
from artdiff.progress import duration
from artdiff.rules import POSITIVE_WHOLE, whole
from artdiff.settings.painting import PaintSettings
from artdiff.tasks import Generation

log = logging.getLogger(__name__)

SCORE = "val/frechet"
"""The name under which the score is logged."""

NETWORK = "random_vgg16"
"""The feature network, which needs no download."""


class PaintingScore(L.Callback):
    """Logs `val/frechet`, the Fréchet distance between pictures painted with the EMA weights and held-out pictures.

    Pictures are painted without guidance, always from the same seeds, with labels in the proportions of the training
    pictures. With several ranks the first one paints, and the others wait.

    Args:
        every_n_validations: score every n-th validation; 0 never scores.
        n: pictures to paint. The distance depends on it: compare only equal `n`.
        steps: sampling steps.
        most_held_out: held-out pictures to compare with, at most.

    Attributes:
        waits: whether the latest validation was not scored, but a later one will be.
    """

    def __init__(self, *, every_n_validations: int, n: int, steps: int, most_held_out: int) -> None:
        whole(0)("callbacks.painting_score.every_n_validations", every_n_validations)
        POSITIVE_WHOLE("callbacks.painting_score.steps", steps)
        for name, value in (("n", n), ("most_held_out", most_held_out)):
            whole(2)(f"callbacks.painting_score.{name}", value)
        self.every_n_validations = every_n_validations
        self.n = n
        self.most_held_out = most_held_out
        self.how = {"steps": steps, "guidance": 1.0, "compile": "none"}
        self.validations = 0
        self.waits = False
        self.held_out: tuple[FeatureNetwork, Tensor] | None = None

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.waits = False
        off = not self.every_n_validations or trainer.sanity_checking
        if off or not isinstance(pl_module, Generation) or len(trainer.datamodule.val_set) < 2:  # type: ignore[attr-defined]
            return
        self.validations += 1
        self.waits = self.validations % self.every_n_validations != 0
        if not self.waits:
            self._log(trainer, pl_module)

    def _log(self, trainer: L.Trainer, task: Generation) -> None:
        """Score on the first rank. If that fails, all ranks raise, since the others would wait for ever."""
        found: float | None = None
        error: Exception | None = None
        try:
            found = self._frechet(trainer, task) if trainer.is_global_zero else None
        except Exception as caught:
            error = caught
        found = trainer.strategy.broadcast(found)
        if found is None:
            raise error or UserError(f"{SCORE} could not be computed: the first rank says why")
        task.log(SCORE, found)

    def _frechet(self, trainer: L.Trainer, task: Generation) -> float:
        data: PictureDataModule = trainer.datamodule  # type: ignore[attr-defined]
        begun = time.monotonic()
        with torch.inference_mode():
            network, held_out = self._held_out(data, task.device)
            standard = network.standardiser(held_out)
            painted = network.seen(self._painted(data, task).split(samples.AT_ONCE), task.device)
            found = distances.frechet(standard(painted), standard(held_out))
        log.info("%s %.4g (%s pictures by %s), in %s", SCORE, found, len(painted), NETWORK,
                 duration(time.monotonic() - begun))  # fmt: skip
        return found

    def _held_out(self, data: PictureDataModule, device: torch.device) -> tuple[FeatureNetwork, Tensor]:
        """Return the feature network, and its features of the held-out pictures, float32 (N,D)."""
        if self.held_out is None:
            with torch.random.fork_rng(devices=[]):  # building a network draws random weights
                network = features.load(NETWORK, None, device)
            real = samples.real(samples.HELD_OUT, data.val_set, "", data.settings.image_size, most=self.most_held_out)
            self.held_out = network, network.seen(real.parts(), device)
        return self.held_out

    def _painted(self, data: PictureDataModule, task: Generation) -> Tensor:
        """Paint the pictures to score: uint8 (N,3,H,W)."""
        painter = Painter(task, Transform(data.settings.image_size, "crop", (0, 0, 0)), Path("not saved"))
        how = PaintSettings.with_defaults(**self.how | painter.made_for)
        rows = samples.rows(painter, samples.shares(data.train_set.labels, self.n), how)
        pixels = np.stack([np.asarray(one.picture) for one in painter.fill(rows, how)])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]
