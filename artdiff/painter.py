"""What a trained model is asked to paint, and the painting of it, in batches that suit the memory."""

import logging
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from artdiff import UserError, cache, compiled, hardware, images
from artdiff.data.datamodule import NO_LABEL
from artdiff.diffusion import guidance, samplers
from artdiff.diffusion.noise import between, from_muse, seeded_noise
from artdiff.ingest import pool, sample_art, scan
from artdiff.ingest.decode import Transform, fitted
from artdiff.settings import MULTIPLE
from artdiff.tasks import Generation, Reconstruction

log = logging.getLogger(__name__)

PICTURES, VARIATIONS = 8, 1
"""How many of each label are painted where that is not said: from noise, and from a muse."""

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
    decoded = pool.read(paths, pool.Limits(**config["limits"]), enough=None if own else 2 * transform.size)
    read = 0
    for path, answer in tqdm(decoded, total=len(paths), desc="reading", unit=" pictures", disable=None):
        found = answer
        if isinstance(found, Image.Image) and own and found.width * found.height > config["max_pixels"]:
            found = f"{found.width} x {found.height} is more than max_pixels={config['max_pixels']:,}"
        if isinstance(found, str):
            log.warning("set aside: %s (%s)", scan.shown(str(path)), found)
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
    count = config["n"]
    if count is None:
        count = PICTURES if config["muse"] is None else VARIATIONS
    labels = _labels(config["label"], classes)
    if config["label"] is None and classes:
        labels = [*range(len(classes))] if config["muse"] is None else [NO_LABEL]
    if config["interpolate"] is None:
        numbers = range(config["seed"], config["seed"] + count)
        rows = [[((seed, seed), (label, label), 0.0) for seed in numbers] for label in labels]
    else:
        first, last = config["interpolate"]
        shares = [index / max(1, count - 1) for index in range(count)]
        is_way = isinstance(config["label"], list) and len(labels) == 2
        between = [(labels[0], labels[1])] if is_way else [(label, label) for label in labels]
        rows = [[((first, last), ends, share) for share in shares] for ends in between]
    sources: list[Muse | None] = [*muses] or [None]
    return [
        [_canvas(config, classes, muse, seeds=seeds, labels=ends, share=share) for seeds, ends, share in row]
        for muse in sources
        for row in rows
    ]


def paint(task: Generation, canvases: Sequence[Canvas], config: dict[str, Any], image_size: int) -> Iterator[Painted]:
    """Paint, as many at once as suit the memory of `task`'s device; a canvas is painted alike in whatever company."""
    at_once = config["batch_size"]
    if at_once is None:
        at_once = hardware.pictures_at_once(task.device, image_size)
    start = 1 - config["strength"] if canvases[0].muse is not None else 0.0
    along = samplers.times(config["steps"], start=start)
    groups = min(at_once, len(canvases)) / hardware.pictures_at_once(task.device, image_size)
    steps = math.ceil(len(canvases) / at_once) * len(along)
    calls = math.ceil(groups) * steps * (1 if config["solver"] == "euler" else 2)
    mode = compiled.mode(config["compile"], task.device, calls=calls)
    if mode is not None:
        compiled.compile_in_place(task.ema, mode)
    shown = [round(stage * (len(along) - 1) / (STAGES - 1)) for stage in range(STAGES)]
    with tqdm(total=len(canvases) * (len(along) - 1), desc="painting", unit=" steps", disable=None) as bar:
        for first in range(0, len(canvases), at_once):
            batch = canvases[first : first + at_once]
            with torch.inference_mode(), _fast(task.device):
                begun, denoise = _prepared(task, batch, config, image_size)
                places = {0: begun.cpu()}
                for step, noisy in enumerate(samplers.follow(denoise, begun, along, solver=config["solver"]), start=1):
                    if step in shown:
                        places[step] = noisy.cpu()
                    bar.update(len(batch))
            for stages in torch.stack([places[step] for step in shown], dim=1):  # (STAGES,3,H,W) of each picture
                strip = images.grid([stages.clamp(-1, 1)], max_side=images.CELL)
                yield Painted(images.to_pillow(stages[-1]), images.to_pillow(strip))


class Sheet:
    """At most so many lines of small copies, each line the rest of a row of pictures, behind its muse if it has one."""

    def __init__(self, lines: int) -> None:
        self.most = lines
        self.lines = list[list[Image.Image]]()
        self.full = False

    def begin(self, muse: Muse | None) -> None:
        """Begin a row."""
        self.full = len(self.lines) == self.most
        if not self.full:
            self.lines.append([] if muse is None else [images.thumbnail(muse.picture)])

    def add(self, picture: Image.Image) -> None:
        """Add to the row."""
        if not self.full and len(self.lines[-1]) == COLUMNS:
            self.begin(None)
        if not self.full:
            self.lines[-1].append(images.thumbnail(picture))

    def picture(self) -> Image.Image:
        """All that was added."""
        columns = max(len(line) for line in self.lines)
        blank = Image.new("RGB", self.lines[0][0].size, "white")
        cells = [picture for line in self.lines for picture in [*line, *[blank] * (columns - len(line))]]
        return images.sheet([(picture,) for picture in cells], columns=columns)


def _prepared(
    task: Generation, batch: Sequence[Canvas], config: dict[str, Any], image_size: int
) -> tuple[Tensor, guidance.Denoiser]:
    """Where a batch of canvases starts, (B,3,H,W), and what denoises it."""
    device, shape = task.device, (3, image_size, image_size)
    share = torch.tensor([canvas.share for canvas in batch])
    interval = tuple(config["guidance_interval"])

    def end(which: int) -> tuple[Tensor, guidance.Denoiser]:
        label = torch.tensor([canvas.labels[which] for canvas in batch], device=device)
        noise = seeded_noise([canvas.seeds[which] for canvas in batch], shape)
        return noise, task.denoiser(label, guidance=config["guidance"], interval=interval)

    (noise, denoise), (other_noise, other_denoise) = end(0), end(1)
    noisy = between(noise, other_noise, share).to(device)  # computed in float64, which not every GPU has
    if any(canvas.labels[0] != canvas.labels[1] for canvas in batch):
        denoise = guidance.blended(denoise, other_denoise, share.to(device))
    muses = [images.from_pillow(canvas.muse.picture) for canvas in batch if canvas.muse is not None]
    if muses:
        noisy, _ = from_muse(torch.stack(muses).to(device), noisy, strength=config["strength"])
    return noisy, denoise


def _fast(device: torch.device) -> torch.autocast:
    """Compute in bf16 where the device does."""
    return torch.autocast(device.type, torch.bfloat16, enabled=hardware.precision(device) == "bf16-mixed")


def _canvas(
    config: dict[str, Any],
    classes: Sequence[str],
    muse: Muse | None,
    *,
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
        stem = f"{muse.path.stem[:50]}_{stem}"
        settings |= {"muse": muse.path.name, "strength": config["strength"]}
    return Canvas(stem, seeds, labels, share, muse, settings)


def _labels(asked: Any, classes: Sequence[str]) -> list[int]:
    """The numbers of the labels that are asked for by name; the null label without a name."""
    if asked is None:
        return [NO_LABEL]
    names = [str(name) for name in (asked if isinstance(asked, list) else [asked])]
    numbers = {"all": [*range(len(classes))] or [NO_LABEL], "none": [NO_LABEL]}
    numbers |= {name: [index] for index, name in enumerate(classes)}
    for name in names:
        if name not in numbers:
            known = scan.some([scan.shown(one) for one in classes], most=20)
            knows = f"it knows {known} (and all, none)" if classes else "it was trained on pictures without classes"
            raise UserError(f"label={name} is not known to this model; {knows}")
    return [number for name in names for number in numbers[name]]


def _plain(name: str) -> str:
    """A label's name as a part of a file's."""
    return re.sub(r"[^\w.-]+", "_", name)[:50]


def _paths(muse: str | None) -> list[Path]:
    if muse is None:
        root = sample_art.folder(cache.default_folder())
        log.warning("muse is not set: using a picture of each style of artdiff's built-in sample art (%s)", root)
        return [min(style.iterdir()) for style in sorted(root.iterdir())]
    path = Path(muse).expanduser()
    return [path / file.path for file in scan.scan(path, name="muse").files] if path.is_dir() else [path]
