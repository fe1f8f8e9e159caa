"""Stops a run that no longer improves."""

from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import early_stopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from artdiff import UserError
from artdiff.rules import POSITIVE_WHOLE
from artdiff.training.loop import callbacks, step_ended
from artdiff.training.painting_score import SCORE, PaintingScore


class EarlyStopping(early_stopping.EarlyStopping):
    """Lightning's early stopping, checked after each validation, except between the batches of one optimizer step.

    A resumed run continues the count of its checkpoint. The patience is that of the settings, so that a run which
    stopped early can be resumed with more; Lightning would take the patience of the checkpoint.

    Args:
        monitor: logged name of the value that must fall (or rise, with `mode="max"`).
        patience: the run stops after this many validations without improvement.
        settings: other arguments of Lightning's callback.

    Raises `UserError` if there is no validation, or if it does not log `monitor`.
    """

    def __init__(self, *, monitor: str, patience: int, **settings: Any) -> None:
        POSITIVE_WHOLE("callbacks.early_stopping.patience", patience)
        super().__init__(monitor, patience=patience, check_on_train_epoch_end=False, **settings)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        not_stopped = {"stopping_reason": EarlyStoppingReason.NOT_STOPPED.value, "stopping_reason_message": None}
        super().load_state_dict(state_dict | {"patience": self.patience} | not_stopped)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.enable_validation:
            raise UserError(
                "callbacks.early_stopping needs validation: set trainer.limit_val_batches to more than 0, or "
                "callbacks.early_stopping=null"
            )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not step_ended(trainer, trainer.fit_loop.epoch_loop.batch_idx):
            return  # stopping here would lose the gradients accumulated so far
        if self.monitor == SCORE and any(isinstance(one, PaintingScore) and one.waits for one in callbacks(trainer)):
            return  # the logged score, if any, is that of an earlier validation
        if not trainer.sanity_checking and self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith(("val/", "gap/"))))
            raise UserError(f"callbacks.early_stopping.monitor must be one of {known}, got {self.monitor}")
        super().on_validation_end(trainer, pl_module)

    @property
    def why(self) -> str | None:
        """Why the run was stopped, in one line; None if it was not."""
        if self.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED:
            best, waited = float(self.best_score), self.wait_count
            return f"{self.monitor} did not improve on {best:.4g} in the last {waited} validations"
        message = self.stopping_reason_message
        return None if message is None else message.removesuffix(" Signaling Trainer to stop.")
