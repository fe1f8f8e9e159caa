"""What a trained model is asked to paint, and the painting of it, in batches that suit the memory."""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from artdiff import UserError, flow, hardware, images
from artdiff.config import MULTIPLE
from artdiff.data import cache, folder, sample_art, workers
from artdiff.data.datamodule import NO_LABEL
from artdiff.data.decode import Transform, fitted
from artdiff.tasks import Generation, Reconstruction

log = logging.getLogger(__name__)

PICTURES, VARIATIONS = 8, 1
"""How many of each label are painted where that is not said: from noise, and from a muse."""

CPU_PIXELS = 64 * 32 * 32
"""Pixels that a CPU denoises at once; more are no faster."""

STAGES = 8
"""Pictures of a trajectory."""

COLUMNS = 16
"""Pictures side by side on a sheet, at most."""

BRUSH = ("steps", "solver", "guidance", "guidance_interval")
"""Settings that a picture's file keeps, beside what it was painted from."""


class Muse(NamedTuple):
    """A picture to start from, at the size to paint at, and its file."""

    path: Path
    picture: Image.Image


class Canvas(NamedTuple):
    """A picture to paint: `share` of the way from the noise of one seed and one label to those of the others."""

    name: str
    seeds: tuple[int, int]
    labels: tuple[int, int]
    share: float
    muse: Muse | None
    settings: dict[str, object]


class Painted(NamedTuple):
    """A finished picture, and how it emerged: its stages from left to right."""

    picture: Image.Image
    trajectory: Image.Image


def read_muses(muse: str | None, config: dict[str, Any], transform: Transform) -> Iterator[Muse]:
    """The pictures of a file or a folder that can be read, at the size to paint at; others are set aside with a word.

    None is one of each style of the sample art. Raises `UserError` where there is none.
    """
    paths, own = _paths(muse), config["size"] == "own"
    decoded = workers.read(paths, workers.Limits(**config["limits"]), enough=None if own else 2 * transform.size)
    read = 0
    for path, answer in tqdm(decoded, total=len(paths), desc="reading", unit=" pictures", disable=None):
        found = answer
        if isinstance(found, Image.Image) and own and found.width * found.height > config["max_pixels"]:
            found = f"{found.width} x {found.height} is more than max_pixels={config['max_pixels']:,}"
        if isinstance(found, str):
            log.warning("set aside: %s (%s)", folder.shown(str(path)), found)
            continue
        read += 1
        yield Muse(path, found if own else fitted(found, transform).convert("RGB"))
    if not read:
        raise UserError(f"muse={muse} holds no picture that can be read: {len(paths)} files set aside")


def reconstruct(task: Reconstruction, picture: Image.Image) -> Image.Image:
    """What the model makes of a picture of any size."""
    image = images.pad_to_multiple(images.from_pillow(picture)[None].to(task.device), MULTIPLE)
    with torch.inference_mode():
        return images.to_pillow(task(image)[0, :, : picture.height, : picture.width])


def plan(config: dict[str, Any], classes: Sequence[str], muses: Sequence[Muse]) -> list[list[Canvas]]:
    """The rows of pictures that `config` asks for. Raises `UserError` for a label that is none of `classes`."""
    count = config["n"] or (VARIATIONS if muses else PICTURES)
    labels = _labels(config["label"], classes, otherwise="none" if muses else "all")
    if config["interpolate"] is None:
        seeds = [(seed, seed) for seed in range(config["seed"], config["seed"] + count)]
        rows = [[(ends, (label, label), 0.0) for ends in seeds] for label in labels]
    else:
        first, last = config["interpolate"]
        shares = [index / max(1, count - 1) for index in range(count)]
        between = [(labels[0], labels[1])] if _are_ends(config["label"]) else [(label, label) for label in labels]
        rows = [[((first, last), ends, share) for share in shares] for ends in between]
    sources: list[Muse | None] = [*muses] or [None]
    return [[_canvas(config, classes, muse, *what) for what in row] for muse in sources for row in rows]


def paint(task: Generation, canvases: Sequence[Canvas], config: dict[str, Any], image_size: int) -> Iterator[Painted]:
    """Paint, as many at once as suit the memory of `task`'s device; a canvas is painted alike in whatever company."""
    at_once = config["batch_size"] or pictures_at_once(task, image_size)
    start = 1 - config["strength"] if canvases[0].muse is not None else 0.0
    along = flow.times(config["steps"], start=start)
    shown = [round(stage * (len(along) - 1) / (STAGES - 1)) for stage in range(STAGES)]
    with tqdm(total=len(canvases) * (len(along) - 1), desc="painting", unit=" steps", disable=None) as bar:
        for first in range(0, len(canvases), at_once):
            batch = canvases[first : first + at_once]
            with torch.inference_mode(), _fast(task.device):
                begun, denoise = _prepared(task, batch, config, image_size)
                places = {0: begun.cpu()}
                for step, noisy in enumerate(flow.follow(denoise, begun, along, solver=config["solver"]), start=1):
                    if step in shown:
                        places[step] = noisy.cpu()
                    bar.update(len(batch))
            for stages in torch.stack([places[step] for step in shown], dim=1):  # (STAGES,3,H,W) of each picture
                strip = images.grid([stages.clamp(-1, 1)], max_side=images.CELL)
                yield Painted(images.to_pillow(stages[-1]), images.to_pillow(strip))


def pictures_at_once(task: Generation, image_size: int) -> int:
    """How many pictures to denoise at once: what half the free memory of a GPU holds, as measured on a few; on a CPU,
    as many as it is fastest with.
    """
    device, few = task.device, 4
    if device.type != "cuda":
        return max(1, CPU_PIXELS // image_size**2)
    label = torch.full((few,), NO_LABEL, device=device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with torch.inference_mode(), _fast(device):
        denoise = task.denoiser(label, guidance=1.0, interval=(0, 1))
        denoise(torch.zeros(few, 3, image_size, image_size, device=device), torch.zeros(few, device=device))
    needed = (torch.cuda.max_memory_allocated(device) - before) / few
    return max(few, int(torch.cuda.mem_get_info(device)[0] / 2 / needed))


def sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Rows of pictures of one size, the longer ones broken."""
    lines = [row[first : first + COLUMNS] for row in rows for first in range(0, len(row), COLUMNS)]
    columns = max(len(line) for line in lines)
    blank = Image.new("RGB", lines[0][0].size, "white")
    cells = [picture for line in lines for picture in [*line, *[blank] * (columns - len(line))]]
    return images.sheet([(picture,) for picture in cells], columns=columns)


def _prepared(
    task: Generation, batch: Sequence[Canvas], config: dict[str, Any], image_size: int
) -> tuple[Tensor, flow.Denoiser]:
    """Where a batch of canvases starts, (B,3,H,W), and what denoises it."""
    device, shape = task.device, (3, image_size, image_size)
    share = torch.tensor([canvas.share for canvas in batch], device=device)
    interval = tuple(config["guidance_interval"])

    def end(which: int) -> tuple[Tensor, flow.Denoiser]:
        label = torch.tensor([canvas.labels[which] for canvas in batch], device=device)
        noise = flow.seeded_noise([canvas.seeds[which] for canvas in batch], shape).to(device)
        return noise, task.denoiser(label, guidance=config["guidance"], interval=interval)

    (noise, denoise), (other_noise, other_denoise) = end(0), end(1)
    noisy = flow.between(noise, other_noise, share)
    if any(canvas.labels[0] != canvas.labels[1] for canvas in batch):
        denoise = flow.blended(denoise, other_denoise, share)
    muses = [images.from_pillow(canvas.muse.picture) for canvas in batch if canvas.muse is not None]
    if muses:
        noisy, _ = flow.from_muse(torch.stack(muses).to(device), noisy, strength=config["strength"])
    return noisy, denoise


def _fast(device: torch.device) -> torch.autocast:
    """Compute in bf16 where the device does."""
    return torch.autocast(device.type, torch.bfloat16, enabled=hardware.precision(device) == "bf16-mixed")


def _canvas(  # noqa: PLR0917
    config: dict[str, Any],
    classes: Sequence[str],
    muse: Muse | None,
    seeds: tuple[int, int],
    labels: tuple[int, int],
    share: float,
) -> Canvas:
    """A canvas named after what is to be on it."""
    names = [classes[label] if label != NO_LABEL else None for label in labels]
    ends = [f"{_plain(name)}_{seed}" if name else str(seed) for name, seed in zip(names, seeds, strict=True)]
    stem = ends[0]
    settings = {"label": names[0], "seed": seeds[0], **{name: config[name] for name in BRUSH}}
    if ends[0] != ends[1]:
        stem = f"{ends[0]}_to_{ends[1]}_{share:.3f}"
        settings |= {"to_label": names[1], "to_seed": seeds[1], "share": share}
    if muse is not None:
        stem = f"{muse.path.stem}_{stem}"
        settings |= {"muse": muse.path.name, "strength": config["strength"]}
    return Canvas(stem, seeds, labels, share, muse, settings)


def _labels(asked: Any, classes: Sequence[str], *, otherwise: str) -> list[int]:
    """The numbers of the labels that are asked for by name, or `otherwise`."""
    if not classes:
        if asked not in (None, "none"):
            raise UserError(f"label={asked} cannot be painted: this model was trained on pictures without classes")
        return [NO_LABEL]
    names = asked if isinstance(asked, list) else [otherwise if asked is None else asked]
    numbers = {"all": [*range(len(classes))], "none": [NO_LABEL]}
    numbers |= {name: [index] for index, name in enumerate(classes)}
    for name in names:
        if str(name) not in numbers:
            raise UserError(f"label={name} is not known to this model; it knows {', '.join(classes)} (and all, none)")
    return [number for name in names for number in numbers[str(name)]]


def _are_ends(label: Any) -> bool:
    """Whether two labels were given: an interpolation then leads from one to the other."""
    return isinstance(label, list) and len(label) == 2


def _plain(name: str) -> str:
    """A label's name as a part of a file's."""
    return re.sub(r"[^\w.-]+", "_", name)


def _paths(muse: str | None) -> list[Path]:
    if muse is None:
        root = sample_art.folder(cache.default_folder())
        log.warning("muse is not set: using a picture of each style of artdiff's built-in sample art (%s)", root)
        return [min(style.iterdir()) for style in sorted(root.iterdir())]
    path = Path(muse).expanduser()
    return [path / file.path for file in folder.scan(path, name="muse").files] if path.is_dir() else [path]
