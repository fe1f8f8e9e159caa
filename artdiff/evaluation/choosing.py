"""Which ways to paint are compared: every combination of checkpoints, weights, steps, solvers and guidance."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from artdiff import UserError
from artdiff.diffusion import samplers
from artdiff.evaluation.distances import Interval
from artdiff.evaluation.results import Choice
from artdiff.evaluation.samples import WEIGHTS
from artdiff.files import sha256
from artdiff.painter import Painter, load
from artdiff.settings import CompareSettings, EvaluateSettings, PaintSettings, Weights

ALL = "all"


class Candidate(NamedTuple):
    """One way to paint: what differs from the others, a painter, the SHA-256 of its checkpoint, which weights it has,
    and how it paints; None for a model that reconstructs.
    """

    name: str
    painter: Painter
    digest: str
    weights: Weights
    settings: PaintSettings | None

    def choice(self, frechet: Interval) -> Choice:
        """The candidate with its score."""
        assert self.settings is not None
        how = {name: getattr(self.settings, name) for name in CompareSettings.PAINTING}
        return Choice(self.name, self.painter.path.name, self.weights, how, calls(self.settings), frechet)


def calls(settings: PaintSettings) -> int:
    """How often the network is asked for a picture, at most: guidance asks twice."""
    return settings.steps * samplers.get(settings.solver).calls_per_step * (1 if settings.guidance == 1 else 2)


def candidates(ckpt: Path, settings: EvaluateSettings) -> list[Candidate]:
    """What `settings` ask to compare, with the checkpoint `ckpt` unless they name others. Raises `UserError`."""
    axes = {name: values for name in CompareSettings.PAINTING if (values := getattr(settings.compare, name))}
    ways = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    found = []
    for path, weights in itertools.product(_checkpoints(ckpt, settings.compare.checkpoints), settings.weights):
        painter = load(path, device=settings.device, trust_code=settings.trust_code, weights=weights)
        if not painter.paints:
            if settings.compare.asks:
                raise UserError(f"compare needs a model that paints anew; {path} reconstructs pictures")
            return [Candidate("", painter, sha256(path), weights, None)]
        for way in ways:
            name = _name(path, weights, way, axes, settings)
            found.append(Candidate(name, painter, sha256(path), weights, settings.paint_settings(**way)))
    return found


def _checkpoints(ckpt: Path, asked: str | Sequence[str] | None) -> list[Path]:
    if asked is None:
        return [ckpt]
    folder = ckpt.parent
    if asked == ALL:
        return sorted(path for path in folder.glob("*.ckpt") if path.is_file())
    names = [asked] if isinstance(asked, str) else asked
    paths = [folder / (name if name.endswith(".ckpt") else f"{name}.ckpt") for name in names]
    for path in paths:
        if not path.is_file():
            known = ", ".join(sorted(one.stem for one in folder.glob("*.ckpt")))
            raise UserError(f"compare.checkpoints: {path} does not exist; expected all, or some of {known}")
    return paths


def _name(path: Path, weights: str, way: dict[str, Any], axes: dict[str, Any], settings: EvaluateSettings) -> str:
    """What tells a candidate from the others, in words."""
    words = {"steps": "{} steps", "guidance": "guidance {:g}", "solver": "{}", "spacing": "{} spacing"}
    parts = [path.stem] if settings.compare.checkpoints is not None else []
    parts += [WEIGHTS[weights]] if len(settings.weights) > 1 else []
    parts += [words[name].format(way[name]) for name, values in axes.items() if len(values) > 1]
    return ", ".join(parts) or WEIGHTS[weights]
