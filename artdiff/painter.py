"""A trained model, ready to paint: the same for the command line, the notebooks and Python."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain, groupby, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, get_args

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from artdiff import UserError, __version__, checkpoints, compiled, exported, hardware, images, origin, runs
from artdiff.diffusion import guidance, samplers
from artdiff.diffusion.conditioning import NO_LABEL
from artdiff.diffusion.noise import DRAFTS, ENLARGED, PictureRandom, between, from_muse, seeded_noise
from artdiff.files import sha256, user_path
from artdiff.ingest.decode import Transform
from artdiff.ingest.tables import shown
from artdiff.origin import Origin
from artdiff.plan import Canvas, Row, canvases, nearest_sides, read_muses, repainting
from artdiff.rules import one_of
from artdiff.runs import Run, ToPaint
from artdiff.settings.base import MULTIPLE, Accelerator, CompileMode
from artdiff.settings.evaluation import CompareSettings, Weights
from artdiff.settings.painting import PaintSettings, Spacing
from artdiff.settings.training import Ranges
from artdiff.signing import Signer
from artdiff.tasks import Generation, Reconstruction, Refinement
from artdiff.word_vectors import nearest, replaced
from artdiff.words import MOST_WORDS, unknown, words

log = logging.getLogger(__name__)

SHOWN = 8
"""Pictures in a trajectory."""

MOST_PAINTED, MOST_RECONSTRUCTED = 1_000_000, 12_000_000
"""`max_pixels` where it is not set: a painter sees each picture dozens of times."""


Paints = TypeVar("Paints", bound=PaintSettings)


class Painting(NamedTuple):
    """A painted picture, RGB, with the settings that paint it again, a name for its file, and maybe how it emerged.

    `muse` is what it was painted from, at the same size. `trajectory` is a strip from noise to picture. `source` names
    what shows through in it, with its rights; None if nothing does.
    """

    name: str
    picture: Image.Image
    settings: dict[str, object]
    muse: Image.Image | None = None
    trajectory: Image.Image | None = None
    source: str | None = None

    @property
    def origin(self) -> Origin:
        """What its file says of it."""
        return Origin(self.settings, self.source)

    def save(self, path: str | Path, *, keep_settings: bool = True, signer: Signer | None = None) -> None:
        """Write a PNG, JPEG or WebP that says that a model made it and, if not told otherwise, with which settings.

        A `signer` adds Content Credentials. Raises `artdiff.UserError` for another end of the name, and if it cannot be
        signed or written.
        """
        origin.save(self.picture, user_path(path), self.origin, keep_settings=keep_settings, signer=signer)


class Emerging(NamedTuple):
    """How far a batch of pictures is: `done` is a share of all that is to be painted, `shown` makes small pictures."""

    done: float
    shown: Callable[[], list[Image.Image]]


Watch = Callable[[Emerging], None]
"""Called after each step; what it raises ends the painting."""


def load(
    run: Run | ToPaint | str | Path,
    *,
    device: Accelerator = "auto",
    ranges: Ranges | None = None,
    trust_code: bool = False,
    runs_dir: str | Path = "runs",
    weights: Weights | None = None,
) -> "Painter":
    """The painter of a run, of a checkpoint's file, or of a `.pth` that the article's program saved.

    A run in which `artdiff.evaluate` has stored its best way to paint uses that, where nothing else is asked for.

    Args:
        run: what `artdiff.train` returned, a run's folder (its best checkpoint is taken), a file, or `"last"`.
        device: where to paint.
        ranges: what a reconstruction's output means, for a file that does not say.
        trust_code: load a checkpoint that names code outside artdiff, which is then run.
        runs_dir: where `"last"` looks for the newest run.
        weights: of a painter, `"averaged"` or `"raw"`; None is what the run has stored, or averaged.

    Raises `artdiff.UserError` if there is no such file or it is no checkpoint.
    """
    if not isinstance(run, ToPaint):
        run = runs.to_paint(str(run.folder if isinstance(run, Run) else run), newest_in=user_path(runs_dir))
    path, stored = run
    used = weights or (stored.weights if stored is not None else "averaged")
    one_of(*get_args(Weights))("weights", used)
    on, digest = hardware.device(device), sha256(path)
    task, transform, data = checkpoints.restore(path, ranges=ranges, trust_code=trust_code)
    if isinstance(task, Refinement):
        raise UserError(f"ckpt={path} is a refiner, which cannot paint alone; take the run that it is a stage of")
    if isinstance(task, Generation) and used == "raw":
        task.ema.load_state_dict(task.network.state_dict())
    if path.suffix == exported.SUFFIX:
        if used == "raw":
            raise UserError(f"weights=raw: {path} has averaged weights alone; take the run itself")
        stored = exported.stored_sampling(path)
    own = _stored_settings(path, stored, trust_code=trust_code)
    return Painter(task.to(on), transform, path, own, weights=used, data=data, digest=digest)  # type: ignore[arg-type]


def _stored_settings(path: Path, stored: "runs.StoredSampling | None", *, trust_code: bool) -> dict[str, Any]:
    """The settings of painting that a run has stored for its checkpoint, which are shown. Raises `UserError`."""
    if stored is None:
        return {}
    if not samplers.is_ours(stored.settings.get("solver", samplers.EARLIER)) and not trust_code:
        raise UserError(f"{path} is painted with a solver that is code outside artdiff: pass trust_code=true if you "
                        f"trust it")  # fmt: skip
    try:
        unknown = set(stored.settings) - set(CompareSettings.PAINTING)
        if unknown:
            raise UserError(f"{', '.join(sorted(unknown))} cannot be stored")
        PaintSettings.with_defaults(**stored.settings)
    except (UserError, TypeError) as error:
        file = path.parents[1] / runs.PAINTING
        raise UserError(f"{file} is damaged ({error}): remove it, or evaluate the run again") from None
    own = " ".join(f"{name}={value}" for name, value in stored.settings.items())
    log.info("this run's own settings are used where nothing else is set: %s (%s)", own, stored.chosen_by)
    return stored.settings


class Painter:
    """Paints with a trained model. `load` makes one.

    Attributes:
        classes: the labels it knows by name; empty for a model without.
        vocabulary: the words it knows, the most frequent first; empty for a model that was trained without captions.
        image_size: side in pixels of the pictures that it was trained on.
        multiple: it paints sides in pixels that are multiples of this; None if it paints the size of training only.
        paints: True if it paints new pictures, False if it reconstructs a muse.
        defaults: settings of painting that it is made for or that its run has stored, by name.
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
        self.multiple = _multiple(task)
        self.classes: list[str] = list(task.classes) if isinstance(task, Generation) else []
        self.vocabulary: list[str] = list(task.vocabulary) if isinstance(task, Generation) else []
        self.paints = isinstance(task, Generation)
        self.defaults = self.made_for | dict(stored)
        self.weights = weights
        self.data = data
        self.digest = digest

    @property
    def made_for(self) -> dict[str, Any]:
        """Settings of painting, by name, that the model was trained for; none if it takes any."""
        return self.task.made_for if isinstance(self.task, Generation) else {}

    @cached_property
    def known(self) -> dict[str, object]:
        """What the settings of every picture say of the model, and of what computes its last bit."""
        known: dict[str, object] = {"artdiff": __version__, "torch": str(torch.__version__)}
        known |= {"device": hardware.describe(self.task.device), "weights": self.weights}
        known |= {"checkpoint": self.path.name}
        if self.digest is not None:  # a model that is being trained has none yet
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
        """Paint; what is None is as the run has stored it in `defaults`, or as in `conf/generate.yaml`.

        Args:
            n: pictures of each label: 8, or 1 of each muse.
            label: a class by name, several, `"all"` or `"none"`; all without a muse or a prompt, none with one.
            prompt: words, or several prompts, for a model that was trained with captions.
            negative: words to stay away from, as far as `guidance` goes.
            word_vectors: a file of them, such as GloVe's: words that the model has not learned are then taken for the
                nearest that it has.
            muse: a picture or pictures to start from: paths, folders or Pillow pictures of any mode.
            strength: how far to leave the muse, 0 (the muse itself) to 1 (noise).
            seed: of the first picture; the next one has the next number. A seed always gives the same picture.
            steps: from noise to picture.
            solver: `"heun"` (two network calls a step), `"dpm_solver_3m"`, `"dpm_solver_2m"` or `"euler"` (one).
            spacing: of the steps: `"uniform"`, `"karras"` (finer near the picture) or `"auto"`: karras on latents.
            guidance: how much closer to the label; 1.0 is off, and twice as fast.
            guidance_interval: the times at which guidance acts; 0 is noise, 1 a picture.
            interpolate: two seeds: `n` pictures on the way from one to the other.
            trajectory: also keep a strip of each picture emerging from noise.
            refine: a picture or pictures whose detail is painted anew, at their own size; instead of a muse.
            refine_steps: of the refiner, if the model has one; 0 leaves what the codec decodes.
            refine_solver: of the refiner, like `solver`.
            size: `"192x128"` (width, height), `"own"` for the muse's own, or `"train"`. A muse is cropped to a width
                and height. Of its own size a painter takes the nearest that its network can paint.
            batch_size: pictures at once, by default what suits the memory; does not change them.
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
        """What is asked for, by the names of `paint`, as settings over the model's own; None is not asked for.

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
        """Paint a picture of this model again, by the settings in its file: on the same machine bit for bit.

        Args:
            picture: a PNG, JPEG or WebP that was painted with this checkpoint.
            muse: what it was painted from, if anything.
            batch_size: as in `paint`; does not change the picture.
            compile: as in `paint`; on a GPU it may change the last bit.

        Raises `artdiff.UserError`, which says what is missing: the settings, the checkpoint or the muse.
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
        """`n` pictures on the way from the one of seed `first` to that of `last`; `how` as for `paint`.

        With two labels, also on the way from one label to the other.
        """
        return self.paint(n=n, interpolate=(first, last), **how)  # type: ignore[arg-type]

    def reconstruct(self, picture: Image.Image) -> Image.Image:
        """What a reconstruction model or a codec makes of an RGB picture of any size.

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
        """`settings` with the most pixels that this model takes, if they do not say."""
        if settings.max_pixels is not None:
            return settings
        return dataclasses.replace(settings, max_pixels=MOST_PAINTED if self.paints else MOST_RECONSTRUCTED)

    def each(self, settings: PaintSettings, *, watch: Watch | None = None) -> Iterator[Painting]:
        """Paint what `settings` say, one after the other, in bounded memory. Raises `UserError` before the first.

        `watch` sees pictures emerge; a reconstruction is made in one go.
        """
        settings = self.bounded(settings)
        if self.paints:
            return self._paintings(settings, watch)
        return self._reconstructions(settings)

    def check(self, settings: PaintSettings) -> None:
        """Raise `UserError` if this model cannot do what `settings` ask for; nothing is read."""
        settings = self.bounded(settings)
        if settings.refine is not None and not _refines(self.task):
            raise UserError("refine needs a model with a refiner, such as one of experiment=paint128")
        if self.paints:
            self._check_size(settings)
            self._check_words(settings)
            canvases(settings, self.classes, [])
            return
        _check_pixels(settings, 1)
        for name in ("n", "label", "prompt", "negative", "interpolate"):
            value = getattr(settings, name)
            if value is not None:
                raise UserError(f"{name}={value} needs a model that paints anew; this one reconstructs its muse")

    def _check_words(self, settings: PaintSettings) -> None:
        """Raise `UserError` if there are words for a model that knows none, or a prompt without any."""
        for name, prompt in settings.prompts:
            if not self.vocabulary:
                raise UserError(f"{name} needs a model that was trained with captions: data.captions=auto")
            if not words(prompt):
                raise UserError(f"{name}={prompt} holds no word")

    def understood(self, settings: Paints) -> tuple[Paints, list[str]]:
        """`settings` with prompts as the model can read them, and a line for all that it cannot read as it stands.

        With a file of word vectors, a word that it has not learned is replaced by the nearest that it has.
        Raises `UserError` if the file cannot be read.
        """
        lines, strange = list[str](), dict[str, list[str]]()
        for name, prompt in settings.prompts:
            if len(words(prompt)) > MOST_WORDS:
                lines.append(f"{name}: only its first {MOST_WORDS} words count")
            strange |= unknown(prompt, self.vocabulary)
        instead = dict[str, str]()
        if strange and settings.word_vectors is not None:
            instead = nearest(strange, self.vocabulary, user_path(settings.word_vectors))
            settings = settings.reworded(lambda prompt: replaced(prompt, instead))
        for word, near in strange.items():
            like = f"; those spelled most like it are {', '.join(map(shown, near))}" if near else ""
            taken = f", and is taken for {shown(instead[word])}" if word in instead else like
            lines.append(f"{shown(word)} is no word that the model has learned{taken}")
        return settings, lines

    def _check_size(self, settings: PaintSettings) -> None:
        """Raise `UserError` if the network cannot paint at the size that `settings` ask for."""
        sides, trained, multiple = settings.sides, (self.image_size, self.image_size), self.multiple
        if settings.size == "train" or sides == trained:
            return
        if multiple is None:
            assert isinstance(self.task, Generation)
            remedy = "; for others it must have an attribute `multiple`: what the sides of its input are multiples of"
            remedy = "" if hasattr(self.task.ema, "multiple") else remedy
            raise UserError(f"size={settings.size}: this network paints {_times(trained)} only{remedy}")
        _check_pixels(settings, multiple)
        if sides is None and settings.muse is None:
            raise UserError("size=own paints at the size of a muse: set muse=PICTURE, or size=WIDTHxHEIGHT")
        if sides is not None and any(side % multiple for side in sides):
            below = [max(multiple, side - side % multiple) for side in sides]
            above = [side + -side % multiple for side in sides]
            near = [_times(sides) for sides in (below, above) if math.prod(sides) <= settings.most_pixels]
            near = near or [_times(nearest_sides(*sides, multiple, most=settings.most_pixels))]
            raise UserError(
                f"size must have sides that are multiples of {multiple} for this model, got {settings.size}; "
                f"set size={' or '.join(dict.fromkeys(near))}"
            )

    def planned(self, settings: Paints) -> tuple[list[Row], Paints]:
        """The rows of pictures that `settings` ask of a model that paints, and the settings to `fill` them with; reads
        the muses.
        """
        settings = self.bounded(settings)
        self.check(settings)
        settings, remarks = self.understood(settings)
        for line in remarks:
            log.warning("%s", line)
        muses = [] if settings.muse is None else list(read_muses(settings, self.transform, multiple=self.multiple))
        return canvases(settings, self.classes, muses), settings

    def _reconstructions(self, settings: PaintSettings) -> Iterator[Painting]:
        self.check(settings)
        for muse in read_muses(settings, self.transform):
            told = self.known | {"muse": muse.file, "muse_sha256": muse.digest, "size": settings.size}
            yield Painting(muse.name, self.reconstruct(muse.picture), told, muse.picture, source=muse.credit)

    def _paintings(self, settings: PaintSettings, watch: Watch | None) -> Iterator[Painting]:
        rows, settings = self.planned(settings)
        yield from self.fill(rows, settings, watch=watch)

    def fill(self, rows: Sequence[Row], settings: PaintSettings, *, watch: Watch | None = None) -> Iterator[Painting]:
        """Paint rows of canvases, as many at once as suit the device's memory; their company does not change them."""
        task, count = self.task, sum(map(len, rows))
        assert isinstance(task, Generation)
        start = 1 - settings.strength if rows[0].muse is not None else 0.0
        times = samplers.times(settings.steps, start, self.spacing(settings))
        sampler = samplers.get(settings.solver)
        self._compile(settings, rows, calls=samplers.calls(settings.solver, len(times) - 1))
        shown_steps = [round(stage * (len(times) - 1) / (SHOWN - 1)) for stage in range(SHOWN)]
        total, done = count * (len(times) - 1), 0
        with tqdm(total=total, desc="painting", unit=" steps", disable=None) as bar:
            for batch, shape in self._batches(rows, settings):
                stages = dict[int, Tensor]()
                with torch.inference_mode(), _autocast(task.device):
                    begun, denoise = self._begun(batch, shape, settings)
                    steps = (
                        enumerate([begun]) if len(times) == 1 else enumerate(sampler(denoise, begun, times), start=1)
                    )
                    if settings.trajectory:
                        stages[0] = task.decode_in_groups(begun).cpu()
                    for step, noisy in steps:
                        bar.update(len(batch) if step else 0)
                        done += len(batch) if step else 0
                        if watch is not None:
                            watch(Emerging(done / max(1, total), partial(self._shown, noisy)))
                        if step == len(times) - 1 or (settings.trajectory and step in shown_steps):
                            stages[step] = task.decode_in_groups(noisy).cpu()
                    if settings.refine_steps:
                        if watch is not None and task.refiners:
                            watch(Emerging(done / max(1, total), partial(self._shown, noisy)))
                        stages[len(times) - 1] = self._refined(batch, stages[len(times) - 1], settings)
                for index, canvas in enumerate(batch):
                    strip = _strip([stages[step][index] for step in shown_steps]) if settings.trajectory else None
                    picture = images.to_pillow(stages[len(times) - 1][index])
                    muse = canvas.muse.picture if canvas.muse is not None else None
                    if muse is not None and settings.strength == 0 and settings.refine is None:
                        picture = muse  # a codec would change it
                    told = self.known | canvas.settings | {"spacing": self.spacing(settings)} | self._detail(settings)
                    shown_muse = canvas.muse if settings.strength < 1 else None
                    source = shown_muse.credit if shown_muse is not None else None
                    yield Painting(canvas.name, picture, told, muse, strip, source)

    def _shown(self, noisy: Tensor) -> list[Image.Image]:
        """Small pictures of what is being denoised (B,C,h,w)."""
        assert isinstance(self.task, Generation)
        return [images.thumbnail(images.to_pillow(one)) for one in self.task.decode_in_groups(noisy).cpu()]

    def spacing(self, settings: PaintSettings) -> Spacing:
        """How the steps are spaced."""
        if settings.spacing != "auto":
            return settings.spacing
        return "karras" if isinstance(self.task, Generation) and self.task.codec.factor > 1 else "uniform"

    def _detail(self, settings: PaintSettings) -> dict[str, object]:
        """What the settings of a picture say of its detail, if the model has a refiner."""
        names = ("refine_steps", "refine_solver") if _refines(self.task) else ()
        return {name: getattr(settings, name) for name in names}

    def _refined(self, batch: Sequence[Canvas], draft: Tensor, settings: PaintSettings) -> Tensor:
        """Decoded pictures (B,3,H,W) with the detail of the refiners, from noise of the seeds of their canvases."""
        task = self.task
        assert isinstance(task, Generation)
        share = torch.tensor([canvas.share for canvas in batch])
        label = torch.tensor([canvas.ends[round(canvas.share)].label for canvas in batch])
        _, _, height, width = draft.shape
        for refiner, stream in zip(task.refiners, (DRAFTS, ENLARGED), strict=False):
            shape = (3, height // refiner.shrink, width // refiner.shrink)
            noise, other_noise = (
                PictureRandom(0, torch.tensor([canvas.seeds[which] for canvas in batch])).normal(stream, shape)
                for which in (0, 1)
            )
            parts = (part.to(task.device) for part in (draft, label, between(noise, other_noise, share)))
            how: Any = {"steps": settings.refine_steps, "solver": settings.refine_solver}
            draft = task.refine_in_groups(refiner, *parts, **how).cpu()
        return draft

    def _shape(self, row: Row, settings: PaintSettings) -> tuple[int, int, int]:
        """(C,H,W) of what is denoised for the pictures of a row."""
        assert isinstance(self.task, Generation)
        codec, square = self.task.codec, (self.image_size, self.image_size)
        width, height = row.muse.picture.size if row.muse is not None else settings.sides or square
        return codec.channels, height // codec.factor, width // codec.factor

    def _together(self, shape: tuple[int, int, int]) -> int:
        """How many of a shape (C,H,W) the network gets at once."""
        return hardware.pictures_at_once(self.task.device, *shape[1:])

    def _batches(
        self, rows: Sequence[Row], settings: PaintSettings
    ) -> Iterator[tuple[list[Canvas], tuple[int, int, int]]]:
        """Canvases of one shape (C,H,W) that follow each other, and the shape."""
        for shape, alike in groupby(rows, key=lambda row: self._shape(row, settings)):
            planned = chain.from_iterable(alike)
            at_once = settings.batch_size if settings.batch_size is not None else self._together(shape)
            while batch := list(islice(planned, at_once)):
                yield batch, shape

    def _compile(self, settings: PaintSettings, rows: Sequence[Row], *, calls: int) -> None:
        """Compile the network if it pays, anew for each shape; `calls` are those of one batch."""
        batches, shapes = 0, set[tuple[int, int, int]]()
        for shape, alike in groupby(rows, key=lambda row: self._shape(row, settings)):
            count, together = sum(map(len, alike)), self._together(shape)
            at_once = settings.batch_size if settings.batch_size is not None else together
            batches += math.ceil(count / at_once) * math.ceil(min(at_once, count) / together)
            shapes.add(shape)
        mode = compiled.mode(settings.compile, self.task.device, calls=batches * calls / len(shapes))
        if mode is not None:
            assert isinstance(self.task, Generation)
            compiled.compile_in_place(self.task.ema, mode)

    def _begun(
        self, batch: Sequence[Canvas], shape: tuple[int, int, int], settings: PaintSettings
    ) -> tuple[Tensor, guidance.Denoiser]:
        """Where a batch starts, (B,*shape) as the codec encodes pictures, and what denoises it."""
        task = self.task
        assert isinstance(task, Generation)
        device = task.device
        interval = (settings.guidance_interval[0], settings.guidance_interval[1])

        negative = None
        if settings.negative is not None:
            negative = task.conditions(
                torch.full((len(batch),), NO_LABEL, device=device), [settings.negative] * len(batch)
            )

        def end(which: int) -> tuple[Tensor, guidance.Denoiser]:
            ends = [canvas.ends[which] for canvas in batch]
            conditions = task.conditions(
                torch.tensor([end.label for end in ends], device=device), [end.prompt for end in ends]
            )
            noise = seeded_noise([canvas.seeds[which] for canvas in batch], shape)
            return noise, task.denoiser(conditions, guidance=settings.guidance, interval=interval, negative=negative)

        share = torch.tensor([canvas.share for canvas in batch])
        (noise, denoise), (other_noise, other_denoise) = end(0), end(1)
        noisy = between(noise, other_noise, share).to(device)  # computed in float64, which not every GPU has
        if any(canvas.ends[0] != canvas.ends[1] for canvas in batch):
            denoise = guidance.blended(denoise, other_denoise, share.to(device))
        muses = [images.from_pillow(canvas.muse.picture) for canvas in batch if canvas.muse is not None]
        if muses:
            encoded = task.encode_in_groups(torch.stack(muses).to(device))
            noisy, _ = from_muse(encoded, noisy, strength=settings.strength)
        return noisy, denoise


def _multiple(task: checkpoints.Model) -> int | None:
    """What sides in pixels must be multiples of; None for a network that does not say, and for a reconstruction."""
    if not isinstance(task, Generation):
        return None
    found: int | None = getattr(task.ema, "multiple", None)
    if found is None:
        return None
    of_refiners = (refiner.shrink * getattr(refiner.network, "multiple", 1) for refiner in task.refiners)
    return math.lcm(found * task.codec.factor, *of_refiners)


def _refines(task: checkpoints.Model) -> bool:
    """Whether a model paints the detail of pictures."""
    return isinstance(task, Generation) and bool(task.refiners)


def _check_pixels(settings: PaintSettings, multiple: int) -> None:
    """Raise `UserError` unless pictures with sides that are multiples of `multiple` fit into `max_pixels`."""
    most, sides = settings.most_pixels, settings.sides
    if settings.size != "train" and most < multiple**2:
        raise UserError(f"max_pixels must be at least {multiple**2} for this model, got {most}")
    if sides is not None and math.prod(sides) > most:
        pixels, works = math.prod(sides), _times(nearest_sides(*sides, multiple, most=most))
        raise UserError(
            f"size={settings.size} has {pixels:,} pixels, more than max_pixels={most:,}; "
            f"set size={works}, or max_pixels={pixels}"
        )


def _times(sides: Sequence[int]) -> str:
    """Width and height as `size` takes them."""
    return "x".join(map(str, sides))


def _strip(stages: Sequence[Tensor]) -> Image.Image:
    """Stages (3,H,W) of one picture from left to right."""
    return images.to_pillow(images.grid([torch.stack(list(stages)).clamp(-1, 1)], max_side=images.CELL))


def _autocast(device: torch.device) -> torch.autocast:
    """Compute in bf16 if that is faster on the device."""
    return torch.autocast(device.type, torch.bfloat16, enabled=hardware.precision(device) == "bf16-mixed")
