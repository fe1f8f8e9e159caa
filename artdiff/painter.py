"""Load a trained model and paint with it. Used by the command line, the notebooks and Python."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import torch
from PIL import Image

from artdiff import UserError, __version__, checkpoints, exported, hardware, images, origin, runs
from artdiff.diffusion import samplers
from artdiff.files import sha256, user_path
from artdiff.ingest.decode import Transform
from artdiff.painting import limits
from artdiff.painting.filling import Filler, strength
from artdiff.painting.limits import Paints
from artdiff.painting.painted import Emerging, Painting, Watch
from artdiff.painting.plan import Muse, Row, canvases, read_muses, repainting
from artdiff.rules import one_of
from artdiff.runs import Run, ToPaint
from artdiff.settings.base import MULTIPLE, Accelerator, CompileMode
from artdiff.settings.evaluation import CompareSettings, Weights
from artdiff.settings.painting import PaintSettings
from artdiff.settings.training import Ranges
from artdiff.tasks import Generation, Reconstruction, Refinement

__all__ = ["Emerging", "Painter", "Painting", "Watch", "load"]

log = logging.getLogger(__name__)

MOST_PAINTED, MOST_RECONSTRUCTED = 1_000_000, 12_000_000
"""Default of `max_pixels`. It is lower for a painter, which evaluates its network dozens of times for a picture."""

MUSES_AT_ONCE = 100_000_000
"""Read muses in parts of about this many pixels (300 MB), to bound the memory."""


def load(
    run: Run | ToPaint | str | Path,
    *,
    device: Accelerator = "auto",
    ranges: Ranges | None = None,
    trust_code: bool = False,
    runs_dir: str | Path = "runs",
    weights: Weights | None = None,
    as_stored: bool = True,
) -> "Painter":
    """Load the painter of a run, of a checkpoint file, or of a `.pth` that the article's program saved.

    If `artdiff.evaluate store=true` has stored the best painting settings in the run, they become the painter's
    defaults.

    Args:
        run: what `artdiff.train` returned, a run folder (its best checkpoint is used), a file, or `"last"`.
        device: where to paint.
        ranges: how to interpret a reconstruction's output (see `Reconstruction`), for a file that does not say.
        trust_code: load a checkpoint that names code outside artdiff, which is then run.
        runs_dir: where `"last"` looks for the newest run.
        weights: of a painter: `"averaged"` (EMA) or `"raw"`. None uses what the run has stored, else the EMA weights.
        as_stored: False ignores the painting settings that a run or an exported model has stored.

    Raises `artdiff.UserError` if the file does not exist or is not a checkpoint.
    """
    if not isinstance(run, ToPaint):
        run = runs.to_paint(str(run.folder if isinstance(run, Run) else run), newest_in=user_path(runs_dir))
    path, stored = run
    used = weights or (stored.weights if stored is not None else "averaged")
    one_of(*get_args(Weights))("weights", used)
    on, digest = hardware.device(device), sha256(path)
    task, transform, data = checkpoints.restore(path, ranges=ranges, trust_code=trust_code)
    if isinstance(task, Refinement):
        raise UserError(f"ckpt={path} is a refiner, which cannot paint alone; use the run that it is a stage of")
    if isinstance(task, Generation) and used == "raw":
        task.ema.load_state_dict(task.network.state_dict())
    if path.suffix == exported.SUFFIX:
        if used == "raw":
            raise UserError(f"weights=raw: {path} has only the EMA weights; use the run itself")
        stored = exported.stored_sampling(path)
    own = _stored_settings(path, stored if as_stored else None, trust_code=trust_code)
    return Painter(task.to(on), transform, path, own, weights=used, data=data, digest=digest)  # type: ignore[arg-type]


def _stored_settings(path: Path, stored: "runs.StoredSampling | None", *, trust_code: bool) -> dict[str, Any]:
    """Check, log and return the painting settings that a run has stored for its checkpoint. Raises `UserError`."""
    if stored is None:
        return {}
    if not samplers.is_ours(stored.settings.get("solver", samplers.EARLIER)) and not trust_code:
        raise UserError(f"the stored solver of {path} is code outside artdiff: pass trust_code=true if you "
                        f"trust it")  # fmt: skip
    try:
        unknown = set(stored.settings) - set(CompareSettings.STORED)
        if unknown:
            raise UserError(f"{', '.join(sorted(unknown))} cannot be stored")
        PaintSettings.with_defaults(**stored.settings)
    except (UserError, TypeError) as error:
        if path.suffix == exported.SUFFIX:
            raise UserError(f"{path.with_name(exported.SETTINGS)} is damaged ({error}): export the run again") from None
        file = path.parents[1] / runs.PAINTING
        raise UserError(f"{file} is damaged ({error}): remove it, or evaluate the run again") from None
    own = " ".join(f"{name}={value}" for name, value in stored.settings.items())
    log.info("this run's own settings are used where nothing else is set: %s (%s)", own, stored.chosen_by)
    return stored.settings


class Painter:
    """Paints with a trained model. Create it with `load`.

    Attributes:
        classes: names of the labels; empty for a model without classes.
        vocabulary: the words it knows, the most frequent first; empty for a model that was trained without captions.
        image_size: width and height in pixels of the training pictures.
        multiple: width and height must be multiples of this, in pixels; None if only the training size works.
        paints: True if it paints new pictures, False if it reconstructs a muse.
        defaults: painting settings, by name: those that the model was trained for, updated by those that its run has
            stored.
    """

    def __init__(
        self,
        task: checkpoints.Model,
        transform: Transform,
        path: Path,
        stored: Mapping[str, Any] = MappingProxyType({}),
        *,
        weights: Weights = "averaged",
        data: str | None = None,
        digest: str | None = None,
    ) -> None:
        self.task = task
        self.transform = transform
        self.path = path
        self.image_size = transform.size
        self.multiple = task.multiple if isinstance(task, Generation) else None
        self.classes: list[str] = list(task.classes) if isinstance(task, Generation) else []
        self.vocabulary: list[str] = list(task.vocabulary) if isinstance(task, Generation) else []
        self.paints = isinstance(task, Generation)
        self.defaults = self.made_for | dict(stored)
        self.weights = weights
        self.data = data
        self.digest = digest

    @property
    def made_for(self) -> dict[str, Any]:
        """Painting settings, by name, that the model was trained for; empty if it works with any."""
        return self.task.made_for if isinstance(self.task, Generation) else {}

    @cached_property
    def known(self) -> dict[str, object]:
        """The metadata of every picture that identifies the model, and what its last bit depends on: torch, device."""
        known: dict[str, object] = {"artdiff": __version__, "torch": str(torch.__version__)}
        known |= {"device": hardware.describe(self.task.device), "weights": self.weights}
        known |= {"checkpoint": self.path.name}
        if self.digest is not None:  # a model in training has no file yet
            known |= {"checkpoint_sha256": self.digest}
        return known if self.data is None else known | {"data_sha256": self.data}

    def paint(
        self,
        *,
        n: int | None = None,
        label: str | Sequence[str] | None = None,
        prompt: str | Sequence[str] | None = None,
        negative: str | None = None,
        word_vectors: str | Path | None = None,
        muse: str | Path | Image.Image | Sequence[str | Path | Image.Image] | None = None,
        strength: float | None = None,
        seed: int | None = None,
        steps: int | None = None,
        solver: str | None = None,
        spacing: str | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        interpolate: tuple[int, int] | None = None,
        trajectory: bool = False,
        refine: str | Path | Image.Image | Sequence[str | Path | Image.Image] | None = None,
        refine_steps: int | None = None,
        refine_solver: str | None = None,
        size: str | int | None = None,
        batch_size: int | None = None,
        compile: str | None = None,
    ) -> list[Painting]:
        """Paint pictures. An argument that is None takes its value from `defaults`, or else from `conf/generate.yaml`.

        Args:
            n: pictures of each label; by default 8, or 1 of each muse.
            label: a class by name, several, `"all"` or `"none"`; by default all without a muse or a prompt, none with
                one.
            prompt: a caption to follow, or several, for a model that was trained with captions.
            negative: a caption to avoid; needs `guidance` other than 1.
            word_vectors: a file of word vectors, such as GloVe's. Each unknown word of a prompt is replaced by the
                nearest known word.
            muse: a picture or pictures to start from: paths, folders or Pillow pictures of any mode.
            strength: how much of the muse to replace: 0 is the muse itself, 1 is pure noise. A few-step model rounds
                it to whole steps.
            seed: of the first picture; the next one has the next number. A seed always gives the same picture.
            steps: from noise to picture.
            solver: `"heun"` (two evaluations per step), `"dpm_solver_3m"`, `"dpm_solver_2m"` or `"euler"` (one).
            spacing: of the steps: `"uniform"`, `"karras"` (finer near noise and picture) or `"auto"`: karras on
                latents.
            guidance: classifier-free guidance scale; 1.0 is off, and twice as fast.
            guidance_interval: the times at which guidance acts; 0 is noise, 1 a picture.
            interpolate: two seeds: `n` pictures that go from one to the other.
            trajectory: also return a strip of each picture emerging from noise.
            refine: a picture or pictures whose detail is repainted at their own size; instead of a muse.
            refine_steps: of the refiner, if the model has one; 0 leaves what the codec decodes.
            refine_solver: of the refiner, like `solver`.
            size: `"192x128"` (width, height; a muse is cropped to this shape), `"train"`, or `"own"`: the muse's size.
                A painter rounds that to the nearest size that its network can paint.
            batch_size: pictures at once, by default what fits into memory. Does not change the pictures.
            compile: torch.compile's mode, `"auto"` or `"none"`.

        Raises `artdiff.UserError` for an unknown label, a value out of range or a muse that cannot be read.
        """
        asked = {
            "n": n, "label": label, "muse": muse, "strength": strength,
            "seed": seed, "steps": steps, "solver": solver, "spacing": spacing, "guidance": guidance,
            "trajectory": trajectory, "size": size, "batch_size": batch_size, "compile": compile,
            "prompt": prompt, "negative": negative, "refine_steps": refine_steps,
            "word_vectors": None if word_vectors is None else str(word_vectors),
            "refine_solver": refine_solver,
            "refine": refine,
            "interpolate": None if interpolate is None else list(interpolate),
            "guidance_interval": None if guidance_interval is None else list(guidance_interval),
        }  # fmt: skip
        return list(self.each(self.settings(asked)))

    def settings(self, asked: Mapping[str, Any]) -> PaintSettings:
        """Settings from arguments of `paint`, by name; an argument that is None takes the model's default.

        Raises `UserError`.
        """
        plain = {name: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
                 for name, value in asked.items() if value is not None}  # fmt: skip
        return PaintSettings.with_defaults(**{**self.defaults, **plain})

    def repaint(
        self,
        picture: str | Path,
        *,
        muse: str | Path | Image.Image | None = None,
        batch_size: int | None = None,
        compile: CompileMode = "auto",
    ) -> Painting:
        """Paint a picture again, with the settings stored in its file. The same machine gives the same bits.

        Args:
            picture: a PNG, JPEG or WebP that was painted with this checkpoint.
            muse: the picture that it was painted from, if any.
            batch_size: as in `paint`; does not change the picture.
            compile: as in `paint`; on a GPU it may change the last bit.

        Raises `artdiff.UserError` if the file holds no settings, or the checkpoint or the muse is not the right one.
        """
        path = user_path(picture)
        told = origin.settings_of(path)
        if "kind" in told:
            raise UserError(f"{path} is a {told['kind']} and not a single picture: give one of its pictures")
        if not self.paints or "seed" not in told:
            raise UserError(f"{path} is a reconstruction: muse=FILE makes it again, with the same checkpoint")
        for name in ("checkpoint_sha256", "weights"):
            theirs, ours = told.get(name), self.known.get(name)
            if theirs != ours:
                raise UserError(f"{path} was painted with {name}={theirs}, and this model has {ours}")
        row, settings = repainting(told, self.classes, muse, name=str(path))
        settings = self.bounded(dataclasses.replace(settings, batch_size=batch_size, compile=compile))
        if muse is not None:
            found = list(read_muses(settings, self.transform, multiple=self.multiple))
            if len(found) > 1:
                raise UserError(f"muse={muse} holds {len(found)} pictures: give the one that {path} was painted from")
            if found[0].digest != told.get("muse_sha256"):
                raise UserError(f"muse={muse} is not the picture that {path} was painted from: its pixels differ")
            row.muse = found[0]
        self.check(settings)
        (painting,) = self.fill([row], settings)
        return painting

    def interpolate(self, first: int, last: int, *, n: int = 8, **how: object) -> list[Painting]:
        """Paint `n` pictures that go from the one of seed `first` to the one of seed `last`; `how` as for `paint`.

        With two labels, they also go from one label to the other.
        """
        return self.paint(n=n, interpolate=(first, last), **how)  # type: ignore[arg-type]

    def reconstruct(self, picture: Image.Image) -> Image.Image:
        """Reconstruct a picture of any size with a reconstruction model or a codec.

        Raises `artdiff.UserError` for a painter.
        """
        if isinstance(self.task, Generation):
            raise UserError("this model paints new pictures; paint(muse=…) starts from one")
        multiple: int = MULTIPLE if isinstance(self.task, Reconstruction) else self.task.network.factor  # type: ignore[assignment]
        image = images.from_pillow(picture.convert("RGB"))[None].to(self.task.device)
        image = images.pad_to_multiple(image, multiple)
        with torch.inference_mode():
            return images.to_pillow(self.task(image)[0, :, : picture.height, : picture.width])

    def bounded(self, settings: Paints) -> Paints:
        """`settings` with this model's default of `max_pixels`, if they have none."""
        if settings.max_pixels is not None:
            return settings
        return dataclasses.replace(settings, max_pixels=MOST_PAINTED if self.paints else MOST_RECONSTRUCTED)

    def each(self, settings: PaintSettings, *, watch: Watch | None = None) -> Iterator[Painting]:
        """Yield the paintings that `settings` ask for, in bounded memory. Raises `UserError` before the first.

        `watch` is called after each sampling step. If there are very many muses, they are painted in parts, and the
        progress restarts with each. A reconstruction does not call it.
        """
        settings = self.bounded(settings)
        if self.paints:
            return self._paintings(settings, watch)
        return self._reconstructions(settings)

    def check(self, settings: PaintSettings) -> None:
        """Raise `UserError` if this model cannot do what `settings` ask for. Reads no muse."""
        settings = self.bounded(settings)
        if settings.refine is not None and not (isinstance(self.task, Generation) and self.task.refiners):
            raise UserError("refine needs a model with a refiner, such as one of experiment=paint128")
        if isinstance(self.task, Generation):
            says = hasattr(self.task.ema, "multiple")
            limits.check_size(settings, trained=self.image_size, multiple=self.multiple, says_multiple=says)
            limits.check_words(settings, self.vocabulary)
            canvases(settings, self.classes, [])
            return
        limits.check_pixels(settings, 1)
        for name in ("n", "label", "prompt", "negative", "interpolate"):
            value = getattr(settings, name)
            if value is not None:
                raise UserError(f"{name}={value} needs a model that paints new pictures; this one reconstructs")

    def understood(self, settings: Paints) -> tuple[Paints, list[str]]:
        """`settings` with unknown words of prompts replaced, and warnings: one for each unknown word, one for each
        setting without effect.

        Raises `UserError` if a file of word vectors cannot be read.
        """
        settings, lines = limits.understood(settings, self.vocabulary)
        if settings.muse is not None and isinstance(self.task, Generation):
            lines += limits.lost_muse_warning(settings, strength(settings, self.task))
        return settings, lines

    def planned(self, settings: Paints) -> tuple[list[Row], Paints]:
        """The rows to paint, and the settings to `fill` them with. For a painter only. Reads the muses."""
        parts, settings = self.parts(settings)
        return [row for part in parts for row in part], settings

    def parts(self, settings: Paints) -> tuple[Iterator[list[Row]], Paints]:
        """As `planned`, but yields the rows of some muses at a time. Muses are read lazily, to bound the memory."""
        settings = self.bounded(settings)
        self.check(settings)
        settings, remarks = self.understood(settings)
        for line in remarks:
            log.warning("%s", line)
        return self._parts(settings), settings

    def _parts(self, settings: PaintSettings) -> Iterator[list[Row]]:
        if settings.muse is None:
            yield canvases(settings, self.classes, [])
            return
        part, pixels = list[Muse](), 0
        for muse in read_muses(settings, self.transform, multiple=self.multiple):
            part.append(muse)
            pixels += muse.picture.width * muse.picture.height
            if pixels >= MUSES_AT_ONCE:
                yield canvases(settings, self.classes, part)
                part, pixels = [], 0
        if part:
            yield canvases(settings, self.classes, part)

    def _reconstructions(self, settings: PaintSettings) -> Iterator[Painting]:
        self.check(settings)
        for muse in read_muses(settings, self.transform):
            told = self.known | {"muse": muse.file, "muse_sha256": muse.digest, "size": settings.size}
            yield Painting(muse.name, self.reconstruct(muse.picture), told, muse.picture, source=muse.credit)

    def _paintings(self, settings: PaintSettings, watch: Watch | None) -> Iterator[Painting]:
        parts, settings = self.parts(settings)
        for rows in parts:
            yield from self.fill(rows, settings, watch=watch)

    def fill(self, rows: Sequence[Row], settings: PaintSettings, *, watch: Watch | None = None) -> Iterator[Painting]:
        """Paint rows of canvases, with a painter only. A picture does not depend on the others in its batch."""
        assert isinstance(self.task, Generation)
        return Filler(self.task, self.image_size, self.known).fill(rows, settings, watch=watch)
