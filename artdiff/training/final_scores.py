"""Log a run's final scores with its hyper-parameters."""

from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from artdiff.files import printable

KEPT = ("val/", "gap/")
"""Prefixes of the names of scores."""


class FinalScores(L.Callback):
    """Logs the hyper-parameters with the final scores, so that TensorBoard's HPARAMS compares runs.

    `scores` is filled when the run ends: the scores of the last validation, with a painter's generalisation gap (see
    `Generation`), and the best checkpoint's score as `best val/loss`.
    """

    def __init__(self, *, hyperparameters: dict[str, Any]) -> None:
        self.hyperparameters = hyperparameters
        self.scores: dict[str, float] = {}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._log(trainer)

    def _log(self, trainer: L.Trainer) -> None:
        self.scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(KEPT)}
        for callback in trainer.checkpoint_callbacks:
            if not isinstance(callback, ModelCheckpoint) or callback.best_model_score is None:
                continue
            if callback.monitor in self.scores:  # some monitor the step, to keep the newest checkpoints
                self.scores[f"best {callback.monitor}"] = float(callback.best_model_score)
        if isinstance(trainer.logger, TensorBoardLogger):
            final = {
                f"final/{name.replace('val/', '').replace(' ', '_')}": value for name, value in self.scores.items()
            }
            trainer.logger.log_hyperparams(_compared(self.hyperparameters), metrics=final)


def _compared(settings: dict[str, Any]) -> dict[str, Any]:
    """Return `settings` without Hydra's own keys (`_partial_`, `_convert_`, …), except `_target_`."""
    return {name: _shown(value) for name, value in settings.items() if name == "_target_" or not name.startswith("_")}


def _shown(value: Any) -> Any:
    """Make a setting's text writable for TensorBoard: names of files may contain bytes that are not UTF-8."""
    if isinstance(value, dict):
        return _compared(value)
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return printable(value) if isinstance(value, str) else value
