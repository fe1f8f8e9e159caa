"""The user's own classifier or detector, an ONNX file, which decides what pictures are refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from artdiff import UserError
from artdiff.files import user_path
from artdiff.settings.passing import RefuseSettings

BOX = 4
"""How many numbers describe a detector's box; its scores follow them."""

STRIDES = (8, 16, 32)
"""A YOLO detector predicts a box for each square of so many pixels."""


class Verdict(NamedTuple):
    """The output with the highest score among the selected ones, and that score."""

    output: int
    score: float


class Classifier:
    """Classifies pictures with the model of `refuse.model`, on the CPU.

    Its input is an RGB picture (1,3,H,W), scaled without distortion and padded with black. Its first output is either
    scores (1,K), or boxes of a detector (1,4+K,N) in the format of YOLOv8, of which the highest score counts.

    Raises `UserError` if ONNX Runtime is missing, the file is no such model, or it lacks a selected output.
    """

    def __init__(self, settings: RefuseSettings) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UserError("refuse.model needs onnxruntime: pip install 'artdiff[onnx]'") from None
        assert settings.model is not None
        self.settings = settings
        self.path: Path = user_path(settings.model)
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 3  # only errors; these are raised anyway
        try:
            self.session: Any = onnxruntime.InferenceSession(str(self.path), quiet, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common class
            raise self._no_use(f"it is no ONNX model ({_first_line(error)})") from None
        inputs = self.session.get_inputs()
        shape: Sequence[Any] = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[1] not in (3, "3"):
            raise self._no_use(f"it takes {', '.join(f'{one.name} {one.shape}' for one in inputs)}, expected (1,3,H,W)")
        height, width = (side if isinstance(side, int) else settings.side for side in shape[2:])
        self.sides = (width, height)
        answer = self._answer(Image.new("RGB", (8, 8)))  # find a wrong model before any painting
        self._check(answer)
        self._verdict(answer)

    def refused(self, picture: Image.Image) -> Verdict | None:
        """Why an RGB picture is refused; None if it passes. Raises `UserError`."""
        verdict = self.judge(picture)
        return None if verdict.score < self.settings.above else verdict  # NaN does not pass

    def judge(self, picture: Image.Image) -> Verdict:
        """The verdict on an RGB picture. Raises `UserError` if the model's output has another shape."""
        return self._verdict(self._answer(picture))

    def _verdict(self, answer: np.ndarray) -> Verdict:
        scores = self._scores(answer)
        wanted = range(len(scores)) if self.settings.outputs is None else self.settings.outputs
        if max(wanted) >= len(scores):
            raise UserError(f"refuse.outputs={self.settings.outputs}: {self.path} has outputs 0 to {len(scores) - 1}")
        output = wanted[int(np.argmax(scores[list(wanted)]))]  # the first NaN, if there is one
        return Verdict(output, float(scores[output]))

    def _answer(self, picture: Image.Image) -> np.ndarray:
        """The model's first output for an RGB picture."""
        fitted = np.asarray(ImageOps.pad(picture, self.sides, color="black"), dtype=np.float32) / 255
        normal = (fitted - np.array(self.settings.mean, np.float32)) / np.array(self.settings.std, np.float32)
        name = self.session.get_inputs()[0].name
        try:
            return np.asarray(self.session.run(None, {name: normal.transpose(2, 0, 1)[None]})[0])
        except Exception as error:  # as above
            raise self._no_use(f"it fails on a picture ({_first_line(error)})") from None

    def _check(self, answer: np.ndarray) -> None:
        """Raise `UserError` if boxes seem to be the rows: they must be the columns, usually more of them than rows."""
        width, height = self.sides
        boxes = sum((width // stride) * (height // stride) for stride in STRIDES)
        rows, columns = answer.shape[1:] if answer.ndim == 3 else (0, 0)
        if rows > BOX and 0 < columns <= rows and columns != boxes:
            raise self._no_use(
                f"its first output is {answer.shape}, which looks like the boxes (1,N,5+K) of YOLOv5, expected "
                f"(1,4+K,N): export a detector with the output of YOLOv8"
            )

    def _scores(self, answer: np.ndarray) -> np.ndarray:
        """The scores, (K,)."""
        if answer.ndim == 2 and len(answer) == 1:
            scores = answer[0]
            if self.settings.logits and len(scores) == 1:
                return 1 / (1 + np.exp(-scores))
            if self.settings.logits:
                scores = np.exp(scores - scores.max())
                scores = scores / scores.sum()
            return scores
        if answer.ndim == 3 and len(answer) == 1 and answer.shape[1] > BOX:
            return answer[0, BOX:].max(axis=1, initial=0.0)  # 0 without a box: it has found nothing
        raise self._no_use(f"its first output is {answer.shape}, expected scores (1,K) or boxes (1,4+K,N)")

    def _no_use(self, reason: str) -> UserError:
        return UserError(f"refuse.model={self.settings.model} cannot be used: {reason}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
