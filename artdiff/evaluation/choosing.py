"""The candidates that an evaluation compares: every combination of checkpoints, weights and sampling settings."""

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
from artdiff.runs import Run, ToPaint
from artdiff.settings.evaluation import CompareSettings, EvaluateSettings, Weights
from artdiff.settings.painting import PaintSettings

ALL = "all"


class Candidate(NamedTuple):
    """A checkpoint, its SHA-256, which of its weights paint, and the settings; `name` has what differs from others."""

    name: str
    path: Path
    sha256: str
    weights: Weights
    settings: PaintSettings

    def choice(self, frechet: Interval) -> Choice:
        """The candidate with its score."""
        how = {name: getattr(self.settings, name) for name in CompareSettings.STORED}
        return Choice(self.name, self.path.name, self.sha256, self.weights, how, calls(self.settings), frechet)


class Loader:
    """Loads painters, and caches the last one."""

    def __init__(self, settings: EvaluateSettings) -> None:
        self.settings = settings
        self.held: tuple[Path, Weights, Painter] | None = None

    def __call__(self, one: Candidate) -> Painter:
        """The painter of a candidate's checkpoint, with its weights."""
        if self.held is None or self.held[:2] != (one.path, one.weights):
            self.held = None  # free its memory first
            device, trust = self.settings.device, self.settings.trust_code
            painter = load(ToPaint(one.path), device=device, trust_code=trust, weights=one.weights, as_stored=False)
            self.held = (one.path, one.weights, painter)
        return self.held[2]


def calls(settings: PaintSettings) -> int:
    """The largest number of network evaluations for a picture; guidance doubles it."""
    return samplers.calls(settings.solver, settings.steps) * (1 if settings.guidance == 1 else 2)


def candidates(ckpt: Path, settings: EvaluateSettings) -> list[Candidate]:
    """The candidates of `settings`, with the checkpoint `ckpt` unless the settings name others. Raises `UserError`."""
    axes = {name: values for name in CompareSettings.PAINTING if (values := getattr(settings.compare, name))}
    ways = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    found = []
    for path in _checkpoints(ckpt, settings.compare.checkpoints):
        digest = sha256(path)
        for weights, way in itertools.product(settings.weights, ways):
            name = _name(path, weights, way, axes, settings)
            found.append(Candidate(name, path, digest, weights, settings.paint_settings(**way)))
    return found


def _checkpoints(ckpt: Path, asked: str | Sequence[str] | None) -> list[Path]:
    if asked is None:
        return [ckpt]
    if Run.of(ckpt) is None:
        raise UserError(f"compare.checkpoints needs a run, and {ckpt} is a single checkpoint: set ckpt=RUN")
    known = sorted(path for path in ckpt.parent.glob("*.ckpt") if path.is_file())
    if asked == ALL:
        return known
    names = [asked] if isinstance(asked, str) else asked
    paths = [ckpt.parent / f"{name.removesuffix('.ckpt')}.ckpt" for name in names]
    for path in paths:
        if path not in known:
            there = ", ".join(path.stem for path in known)
            raise UserError(f"compare.checkpoints: {path} does not exist; expected all, or some of {there}")
    return paths


def _name(path: Path, weights: Weights, way: dict[str, Any], axes: dict[str, Any], settings: EvaluateSettings) -> str:
    """A name with what differs between the candidates."""
    words = {"steps": "{} steps", "guidance": "guidance {:g}", "solver": "{}", "spacing": "{} spacing"}
    parts = [path.stem] if settings.compare.checkpoints is not None else []
    parts += [WEIGHTS[weights]] if len(settings.weights) > 1 else []
    parts += [words[name].format(way[name]) for name, values in axes.items() if len(values) > 1]
    return ", ".join(parts) or WEIGHTS[weights]
