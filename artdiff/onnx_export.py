"""Export the networks of a painter as ONNX files, for `onnx_paint.py`, which paints without PyTorch."""

import importlib.util
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from artdiff import UserError, onnx_paint, words
from artdiff.diffusion import samplers
from artdiff.diffusion.codec import Resize
from artdiff.diffusion.path import Preconditioned
from artdiff.diffusion.refiner import NOISE_SCALE, Refiner, Residual, conditioned, shrunk
from artdiff.painter import Painter
from artdiff.painting.filling import spacing
from artdiff.settings.painting import PaintSettings
from artdiff.tasks import Generation

SETTINGS, PROGRAM, WORDS = "onnx.json", "paint_onnx.py", "artdiff_words.py"


class Denoise(nn.Module):
    """The EMA network with its preconditioning: `(noisy (B,C,h,w), time (B,), label (B,)) → clean (B,C,h,w)`.

    With captions, words (B,W,P) come after the label.
    """

    def __init__(self, task: Generation) -> None:
        super().__init__()
        self.network = task.ema
        self.data_std = task.ema_denoiser.data_std

    def forward(self, noisy: Tensor, time: Tensor, label: Tensor, words: Tensor | None = None) -> Tensor:
        conditions = (label,) if words is None else (label, words)
        return Preconditioned(self.network, data_std=self.data_std)(noisy, time, *conditions)


class Decode(nn.Module):
    """Latents (B,C,h,w) → drafts (B,3,H,W), signed but not clamped."""

    def __init__(self, task: Generation) -> None:
        super().__init__()
        self.codec = task.codec

    def forward(self, latent: Tensor) -> Tensor:
        return self.codec.decode(latent)


class Detail(nn.Module):
    """`(noisy (B,3,h,w), draft (B,3,H,W), time (B,), label (B,)) → difference from the draft (B,3,h,w)`."""

    def __init__(self, refiner: Refiner) -> None:
        super().__init__()
        self.network, self.shrink = refiner.network, refiner.shrink

    def forward(self, noisy: Tensor, draft: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return conditioned(self.network, shrunk(draft, self.shrink))(noisy, time, label)


class Finish(nn.Module):
    """`(difference (B,3,h,w), draft (B,3,H,W)) → picture (B,3,H,W)`, signed but not clamped."""

    def __init__(self, refiner: Refiner) -> None:
        super().__init__()
        self.shrink = refiner.shrink
        self.std: Tensor
        self.register_buffer("std", refiner.std)

    def forward(self, difference: Tensor, draft: Tensor) -> Tensor:
        image = Residual(shrunk(draft, self.shrink), self.std).decode(difference)
        return image if self.shrink == 1 else Resize(factor=self.shrink).decode(image)


def files(painter: Painter) -> dict[str, bytes]:
    """The files of an ONNX export, by name: the networks, their settings (JSON), and a program that paints with them.

    The networks take any batch size, at the training resolution. Raises `UserError` if the model is not a painter, a
    library is missing, or a network cannot be written as ONNX.
    """
    task = painter.task
    if not isinstance(task, Generation):
        raise UserError("onnx=true needs a model that paints new pictures; this one reconstructs")
    for name in ("onnx", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"onnx=true needs {name}: pip install 'artdiff[onnx]'")
    settings = PaintSettings.with_defaults(**painter.defaults)
    for solver in (settings.solver, settings.refine_solver):
        if not isinstance(solver, str) or solver not in onnx_paint.SOLVERS:
            raise UserError(f"onnx=true: the program beside the networks has no solver {solver}")
    found, shapes = dict[str, bytes](), list[list[int]]()
    for name, module, inputs in _parts(task, painter.image_size):
        shapes.append(list(next(iter(inputs.values())).shape[1:]))
        found[f"{name}.onnx"] = _as_onnx(name, module.to(task.device).eval(), inputs)
    latent, _, *details = shapes
    told = {
        "classes": painter.classes,
        "knows_words": bool(painter.vocabulary),
        "latent": latent,
        "details": details[::2],
        "solver": settings.solver,
        "times": samplers.times(settings.steps, spacing=spacing(settings, task)),
        "detail_solver": settings.refine_solver,
        "detail_times": samplers.times(settings.refine_steps),
        "detail_noise": NOISE_SCALE,
        "guidance": settings.guidance,
        "guidance_interval": settings.guidance_interval,
    }
    programs = {PROGRAM: onnx_paint, **({WORDS: words} if painter.vocabulary else {})}
    sources = {name: Path(str(module.__file__)).read_bytes() for name, module in programs.items()}
    return {**found, SETTINGS: (json.dumps(told, indent=1) + "\n").encode(), **sources}


def _parts(task: Generation, side: int) -> Iterator[tuple[str, nn.Module, dict[str, Tensor]]]:
    """Yield the networks by name, each with example inputs: two pictures of `side` x `side` pixels."""
    picture = torch.zeros(2, 3, side, side, device=task.device)
    latent = task.encode_in_groups(picture)
    asked = {"time": picture.new_full((2,), 0.5), "label": picture.new_zeros(2, dtype=torch.int64)}
    _, *words = task.conditions(asked["label"])
    yield "denoise", Denoise(task), {"noisy": latent, **asked, **dict(zip(("words",), words, strict=False))}
    yield "decode", Decode(task), {"latent": latent}
    for number, refiner in enumerate(task.refiners, start=1):
        noisy = shrunk(picture, refiner.shrink).clone()  # the exporter merges inputs that are the same tensor
        yield f"detail_{number}", Detail(refiner), {"noisy": noisy, "draft": picture, **asked}
        yield f"finish_{number}", Finish(refiner), {"difference": noisy, "draft": picture}


def _as_onnx(name: str, module: nn.Module, inputs: Mapping[str, Tensor]) -> bytes:
    """One network as the bytes of an ONNX file. Raises `UserError`."""
    batch = torch.export.Dim("batch", min=1)
    levels = {one: logging.getLogger(one).level for one in ("torch.onnx", "onnxscript", "onnx_ir")}
    for one in levels:
        logging.getLogger(one).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=["output"],
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # a user's network may use operators that ONNX lacks
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"onnx=true: {name} cannot be written as ONNX ({reason})") from None
    finally:
        for one, level in levels.items():
            logging.getLogger(one).setLevel(level)
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        program.save(str(Path(folder, "it")), external_data=False)
        return Path(folder, "it").read_bytes()
