"""Fill canvases: sample pictures from seeds, labels, prompts and muses with a painter."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from artdiff import compiled, hardware, images
from artdiff.diffusion import guidance, samplers
from artdiff.diffusion.conditioning import NO_LABEL
from artdiff.diffusion.noise import DRAFTS, ENLARGED, PictureRandom, between, from_muse, seeded_noise
from artdiff.painting.painted import Emerging, Painting, Watch
from artdiff.painting.plan import Canvas, Row
from artdiff.settings.painting import PaintSettings, Spacing
from artdiff.tasks import Generation

SHOWN = 8
"""Pictures in a trajectory."""

Shape = tuple[int, int, int]
"""Shape (C,H,W) of a picture's latents."""

Passed = Callable[[int, Tensor], None]
"""Called after each step with the number of steps taken, counted per picture, and the current state (B,C,H,W)."""


def spacing(settings: PaintSettings, task: Generation) -> Spacing:
    """The spacing of the steps, with `auto` resolved for this model."""
    if settings.spacing != "auto":
        return settings.spacing
    return "karras" if task.codec.factor > 1 else "uniform"


def strength(settings: PaintSettings, task: Generation) -> float:
    """`settings.strength`, rounded to whole steps if a few-step model paints with the steps it was trained for.

    Such a model was trained only at the times where its steps begin. It takes at least one step, unless strength is 0.
    """
    if settings.strength == 0 or task.made_for.get("steps") != settings.steps:
        return settings.strength
    return max(1, round(settings.steps * settings.strength)) / settings.steps


@dataclass(frozen=True)
class Filler:
    """Fills canvases with a painter, by default in batches that fit into the device's memory.

    A picture does not depend on the others in its batch.

    Args:
        task: the model, on its device, in evaluation mode.
        image_size: width and height in pixels of its training pictures, the default size to paint.
        known: the metadata of every picture that identifies the model.
    """

    task: Generation
    image_size: int
    known: Mapping[str, object]

    def fill(self, rows: Sequence[Row], settings: PaintSettings, *, watch: Watch | None = None) -> Iterator[Painting]:
        """Yield a painting for each canvas. `watch` is called after each step."""
        start = 1 - strength(settings, self.task) if rows[0].muse is not None else 0.0
        times = samplers.times(settings.steps, start, spacing(settings, self.task))
        steps, done = len(times) - 1, 0
        self._compile(settings, rows, calls=samplers.calls(settings.solver, steps))
        total = steps * sum(map(len, rows))
        with tqdm(total=total, desc="painting", unit=" steps", disable=None) as bar:

            def passed(count: int, noisy: Tensor) -> None:
                nonlocal done
                bar.update(count)
                done += count
                if watch is not None:
                    watch(Emerging(done / max(1, total), partial(self._small, noisy)))

            for batch, shape in self._batches(rows, settings):
                stays = _kept(batch[0], settings) is not None and not settings.trajectory
                stages = [] if stays else self._stages(batch, shape, settings, times, passed)
                for index, canvas in enumerate(batch):
                    yield self._painting(canvas, [stage[index] for stage in stages], settings)

    def _stages(
        self, batch: Sequence[Canvas], shape: Shape, settings: PaintSettings, times: Sequence[float], passed: Passed
    ) -> list[Tensor]:
        """Sample a batch. Returns decoded pictures (B,3,H,W) on the CPU: `SHOWN` for a trajectory, else the last."""
        task, last = self.task, len(times) - 1
        kept = [round(stage * last / (SHOWN - 1)) for stage in range(SHOWN)] if settings.trajectory else [last]
        stages = dict[int, Tensor]()
        with torch.inference_mode(), _autocast(task.device):
            begun, denoise = self._begun(batch, shape, settings)
            if 0 in kept:
                stages[0] = task.decode_in_groups(begun).cpu()
            course = samplers.get(settings.solver)(denoise, begun, times) if last else ()
            noisy = begun
            for step, noisy in enumerate(course, start=1):
                passed(len(batch), noisy)
                if step in kept:
                    stages[step] = task.decode_in_groups(noisy).cpu()
            if last == 0 or (settings.refine_steps and task.refiners):
                passed(0, noisy)
            if settings.refine_steps:
                stages[last] = self._refined(batch, stages[last], settings)
        return [stages[step] for step in kept]

    def _painting(self, canvas: Canvas, stages: Sequence[Tensor], settings: PaintSettings) -> Painting:
        """The painting of a canvas, from its stages (3,H,W). They may be empty if the muse stays as it is."""
        muse = canvas.muse.picture if canvas.muse is not None else None
        picture = _kept(canvas, settings) or images.to_pillow(stages[-1])
        told = self.known | canvas.settings | {"spacing": spacing(settings, self.task)}  # type: ignore[operator]
        if self.task.refiners:
            told |= {name: getattr(settings, name) for name in ("refine_steps", "refine_solver")}
        shows_through = canvas.muse if strength(settings, self.task) < 1 else None
        source = shows_through.credit if shows_through is not None else None
        return Painting(canvas.name, picture, told, muse, _strip(stages) if settings.trajectory else None, source)

    def _small(self, noisy: Tensor) -> list[Image.Image]:
        """Thumbnails of the current state (B,C,h,w), decoded."""
        return [images.thumbnail(images.to_pillow(one)) for one in self.task.decode_in_groups(noisy).cpu()]

    def _refined(self, batch: Sequence[Canvas], draft: Tensor, settings: PaintSettings) -> Tensor:
        """Add detail to decoded pictures (B,3,H,W) with the refiners, starting from noise of the canvases' seeds."""
        share = torch.tensor([canvas.share for canvas in batch])
        label = torch.tensor([canvas.ends[round(canvas.share)].label for canvas in batch])
        _, _, height, width = draft.shape
        for refiner, stream in zip(self.task.refiners, (DRAFTS, ENLARGED), strict=False):
            shape = (3, height // refiner.shrink, width // refiner.shrink)
            noise, other_noise = (
                PictureRandom(0, torch.tensor([canvas.seeds[which] for canvas in batch])).normal(stream, shape)
                for which in (0, 1)
            )
            parts = (part.to(self.task.device) for part in (draft, label, between(noise, other_noise, share)))
            how: Any = {"steps": settings.refine_steps, "solver": settings.refine_solver}
            draft = self.task.refine_in_groups(refiner, *parts, **how).cpu()
        return draft

    def _shape(self, row: Row, settings: PaintSettings) -> Shape:
        """Shape of the latents of a row's pictures."""
        codec, square = self.task.codec, (self.image_size, self.image_size)
        width, height = row.muse.picture.size if row.muse is not None else settings.sides or square
        return codec.channels, height // codec.factor, width // codec.factor

    def _together(self, shape: Shape) -> int:
        """Batch size of the network for this shape."""
        return hardware.pictures_at_once(self.task.device, *shape[1:])

    def _batches(self, rows: Sequence[Row], settings: PaintSettings) -> Iterator[tuple[list[Canvas], Shape]]:
        """Yield batches of consecutive canvases that have the same shape, with the shape."""
        for shape, alike in groupby(rows, key=lambda row: self._shape(row, settings)):
            planned = chain.from_iterable(alike)
            at_once = settings.batch_size if settings.batch_size is not None else self._together(shape)
            while batch := list(islice(planned, at_once)):
                yield batch, shape

    def _compile(self, settings: PaintSettings, rows: Sequence[Row], *, calls: int) -> None:
        """Compile the network if that pays; torch compiles once per shape. `calls` are the evaluations of a batch."""
        batches, shapes = 0, set[Shape]()
        for shape, alike in groupby(rows, key=lambda row: self._shape(row, settings)):
            count, together = sum(map(len, alike)), self._together(shape)
            at_once = settings.batch_size if settings.batch_size is not None else together
            batches += math.ceil(count / at_once) * math.ceil(min(at_once, count) / together)
            shapes.add(shape)
        mode = compiled.mode(settings.compile, self.task.device, calls=batches * calls / len(shapes))
        if mode is None:
            self.task.ema._compiled_call_impl = None  # undo an earlier compilation; torch has no public way
        else:
            compiled.compile_in_place(self.task.ema, mode)

    def _begun(
        self, batch: Sequence[Canvas], shape: Shape, settings: PaintSettings
    ) -> tuple[Tensor, guidance.Denoiser]:
        """The initial state of a batch, latents (B,*shape), and its denoiser."""
        share = torch.tensor([canvas.share for canvas in batch])
        (noise, denoise), (other_noise, other_denoise) = (self._end(which, batch, shape, settings) for which in (0, 1))
        noisy = between(noise, other_noise, share).to(self.task.device)  # on the CPU: not every GPU has float64
        if any(canvas.ends[0] != canvas.ends[1] for canvas in batch):
            denoise = guidance.blended(denoise, other_denoise, share.to(self.task.device))
        muses = [images.from_pillow(canvas.muse.picture) for canvas in batch if canvas.muse is not None]
        if muses:
            encoded = self.task.encode_in_groups(torch.stack(muses).to(self.task.device))
            noisy, _ = from_muse(encoded, noisy, strength=strength(settings, self.task))
        return noisy, denoise

    def _end(
        self, which: int, batch: Sequence[Canvas], shape: Shape, settings: PaintSettings
    ) -> tuple[Tensor, guidance.Denoiser]:
        """The noise and the denoiser of one end of each canvas's interpolation: `which` is 0 (first) or 1 (last)."""
        task, device, count = self.task, self.task.device, len(batch)
        ends = [canvas.ends[which] for canvas in batch]
        conditions = task.conditions(
            torch.tensor([end.label for end in ends], device=device), [end.prompt for end in ends]
        )
        negative = None
        if settings.negative is not None:
            negative = task.conditions(torch.full((count,), NO_LABEL, device=device), [settings.negative] * count)
        interval = (settings.guidance_interval[0], settings.guidance_interval[1])
        noise = seeded_noise([canvas.seeds[which] for canvas in batch], shape)
        return noise, task.denoiser(conditions, guidance=settings.guidance, interval=interval, negative=negative)


def _kept(canvas: Canvas, settings: PaintSettings) -> Image.Image | None:
    """The muse of a canvas if nothing is to be painted, since decoding would change it; else None."""
    if canvas.muse is None or settings.strength > 0 or settings.refine is not None:
        return None
    return canvas.muse.picture


def _strip(stages: Sequence[Tensor]) -> Image.Image:
    """Stages (3,H,W) of one picture from left to right."""
    return images.to_pillow(images.grid([torch.stack(list(stages)).clamp(-1, 1)], max_side=images.CELL))


def _autocast(device: torch.device) -> torch.autocast:
    """Autocast to bf16 if that is faster on the device."""
    return torch.autocast(device.type, torch.bfloat16, enabled=hardware.precision(device) == "bf16-mixed")
