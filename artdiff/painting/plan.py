"""Plan what to paint: seeds, labels, prompts, muses, their order and file names. Uses no network."""

import hashlib
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from PIL import Image, ImageOps
from tqdm import tqdm

from artdiff import UserError, cache
from artdiff.diffusion import samplers
from artdiff.diffusion.conditioning import NO_LABEL
from artdiff.files import user_path
from artdiff.ingest import pool, sample_art, scan
from artdiff.ingest.decode import Transform, fitted, flat
from artdiff.ingest.flatten import WHITE
from artdiff.ingest.tables import shown, some
from artdiff.settings.painting import PaintSettings

log = logging.getLogger(__name__)

FROM_NOISE, FROM_MUSE = 8, 1
"""Default of `n`, the pictures of each label: from noise, and from each muse."""


LONGEST = 60
"""Most bytes of a label, a prompt or a muse's name in a file name."""


class Muse(NamedTuple):
    """A picture to start from, RGB, at the size to paint at.

    `file` is its file name, empty for a Pillow picture. `rights` holds the creator, rights and licence that its file
    states.
    """

    name: str
    picture: Image.Image
    file: str
    rights: Mapping[str, str] = MappingProxyType({})

    @property
    def digest(self) -> str:
        """SHA-256 of its pixels, width and height: the same for every file that decodes to this picture."""
        return hashlib.sha256(f"{self.picture.size}".encode() + self.picture.tobytes()).hexdigest()

    @property
    def credit(self) -> str:
        """Its name and rights, for the metadata of pictures that were painted from it."""
        rights = "; ".join(f"{name}: {text}" for name, text in self.rights.items())
        return f"{self.file or self.name} ({rights})" if rights else self.file or self.name


class End(NamedTuple):
    """What to paint: the index of a label, and a prompt."""

    label: int = NO_LABEL
    prompt: str | None = None


Ends = tuple[End, End]
"""The first and the last end of an interpolation."""


class Canvas(NamedTuple):
    """One picture to paint: `share` in [0,1] interpolates from the first seed and end to the second."""

    name: str
    seeds: tuple[int, int]
    ends: Ends
    share: float
    muse: Muse | None
    settings: dict[str, object]


def read_muses(settings: PaintSettings, transform: Transform, *, multiple: int | None = None) -> Iterator[Muse]:
    """Yield the muses at the size to paint at. Files that cannot be read are set aside with a warning.

    `settings.muse` is a path to a picture or a folder, a Pillow picture, or a list of either. None means one picture of
    each style of the built-in sample art.

    With `size=own` and a `multiple`, width and height are rounded to multiples of it, and a picture of more than
    `max_pixels` is scaled down. With `size=own` and no `multiple`, a picture keeps its size, or is set aside if it has
    too many pixels. With `size=WIDTHxHEIGHT` it is cropped to that shape.

    Raises `UserError` if none can be read.
    """
    stays, read = settings.size == "own" and multiple is None, 0
    for name, file, found in _decoded(settings, transform):
        picture, reason = found.picture, found.reason
        if picture is not None and stays and picture.width * picture.height > settings.most_pixels:
            reason = f"{picture.width} x {picture.height} is more than max_pixels={settings.most_pixels:,}"
            picture = None
        if picture is None:
            log.warning("set aside: %s (%s)", shown(file), reason)
            continue
        read += 1
        at_size = _at_size(picture, settings, transform, multiple, name=file or name)
        yield Muse(name, at_size, Path(file).name, found.rights)
    if not read:
        raise UserError(f"muse={settings.muse} holds no picture that can be read")


def nearest_size(width: int, height: int, multiple: int, *, most: int) -> tuple[int, int]:
    """Round width and height to multiples of `multiple`; first scale them down if they hold more than `most` pixels.

    Scaling keeps the aspect ratio. `most` must be at least `multiple²`. Neither result is less than `multiple`, however
    narrow the picture.
    """
    scale, most = min(1.0, math.sqrt(most / (width * height))) / multiple, most // multiple**2
    across, down = max(1, round(width * scale)), max(1, round(height * scale))
    if across * down > most:  # both were rounded up, or one was lengthened to `multiple`
        across, down = (min(most, max(1, int(side * scale))) for side in (width, height))
    return across * multiple, down * multiple


class Row(Sequence[Canvas]):
    """The canvases of one label and prompt, from noise or from one muse. They are created lazily: there may be many.

    With two `seeds` the row interpolates from the first seed and end to the second. A `share` fixes one point of that
    interpolation.
    """

    def __init__(
        self,
        settings: PaintSettings,
        classes: Sequence[str],
        muse: Muse | None,
        *,
        ends: Ends,
        seeds: tuple[int, int] | None,
        count: int,
        share: float | None = None,
    ) -> None:
        self.settings = settings
        self.classes = classes
        self.muse = muse
        self.ends = ends
        self.seeds = seeds
        self.length = count
        self.share = share

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self.length))]
        if not 0 <= index < self.length:
            raise IndexError(index)
        seed = self.settings.seed + index
        seeds, share = (seed, seed), 0.0
        if self.seeds is not None:
            seeds, share = self.seeds, index / max(1, self.length - 1) if self.share is None else self.share
        return _canvas(self.settings, self.classes, self.muse, seeds=seeds, ends=self.ends, share=share)


def canvases(settings: PaintSettings, classes: Sequence[str], muses: Sequence[Muse]) -> list[Row]:
    """The rows that `settings` ask for: one for each combination of muse, label and prompt.

    Raises `UserError` for a label that is not in `classes`.
    """
    count = settings.n
    if count is None:
        count = FROM_NOISE if settings.muse is None else FROM_MUSE
    if settings.seed + count > 2**63:
        raise UserError(f"seed={settings.seed} is too large for {count} pictures: it must be at most 2**63 - n")
    labels, prompts = label_numbers(settings.label, classes), _prompts(settings.prompt)
    if settings.label is None and classes and settings.prompt is None:
        labels = [*range(len(classes))] if settings.muse is None else [NO_LABEL]
    ways, seeds = [[End(label, prompt)] * 2 for label in labels for prompt in prompts], None
    if settings.interpolate is not None:
        first, last = settings.interpolate
        seeds = (first, last)
        if isinstance(settings.label, list) and len(labels) == 2 and len(prompts) in (1, 2):
            ways = [[End(label, prompt) for label, prompt in zip(labels, 2 * prompts, strict=False)]]
        elif isinstance(settings.prompt, list) and len(prompts) == 2 and len(labels) == 1:
            ways = [[End(labels[0], prompt) for prompt in prompts]]
    sources: list[Muse | None] = [*muses] or [None]
    return [
        Row(settings, classes, muse, ends=(start, end), seeds=seeds, count=count)
        for muse in sources
        for start, end in ways
    ]


def repainting(told: Mapping[str, Any], classes: Sequence[str], muse: Any, *, name: str) -> tuple[Row, PaintSettings]:
    """From the metadata `told` of a picture, the row of one canvas that repaints it, and the settings for it.

    `muse` is the picture that the user gives as muse, or as the one to refine. The row has no muse yet. `name` is the
    picture's name, for errors. Raises `UserError` if `muse` is missing or superfluous, or the metadata is incomplete or
    invalid.
    """
    begun = "refine" if "refine" in told else "muse"
    if muse is None and begun in told:
        raise UserError(f"{name} was painted from the picture {shown(str(told[begun]))}: set muse=FILE to it")
    if muse is not None and begun not in told:
        raise UserError(f"{name} was painted from noise: leave muse out")
    labels = [told.get("label"), told.get("to_label", told.get("label"))]
    prompts = [told.get("prompt"), told.get("to_prompt", told.get("prompt"))]
    given = {key: told[key] for key in PaintSettings.REPAINTED if key in told} | {"n": 1, begun: muse}
    if begun == "refine":
        given.pop("negative", None)  # earlier versions stored it, though it has no effect
    if "refine_steps" in told:
        given.setdefault("refine_solver", samplers.EARLIER)
    missing = [key for key in ("seed", "steps", "solver") if told.get(key) is None]
    if missing:
        raise UserError(f"{name} does not say how it was painted: {missing[0]} is missing")
    if not all(samplers.is_ours(told.get(key, samplers.EARLIER)) for key in ("solver", "refine_solver")):
        raise UserError(f"{name} was painted with a solver that is code outside artdiff, which a file may not run")
    try:
        settings = PaintSettings.with_defaults(**given)
        seeds = (told["seed"], told.get("to_seed", told["seed"]))
        numbers = [label_numbers(label if label is None else [label], classes)[0] for label in labels]
        if not all(prompt is None or isinstance(prompt, str) for prompt in (*prompts, told.get("negative"))):
            raise TypeError("a prompt is not a text")
        first, last = (End(*end) for end in zip(numbers, prompts, strict=True))
        share = float(told.get("share", 0.0))
    except UserError as error:
        raise UserError(f"{name} cannot be painted again: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{name} does not say how it was painted: {type(error).__name__} {error}") from None
    moving = seeds if "share" in told else None
    row = Row(settings, classes, None, ends=(first, last), seeds=moving, count=1, share=share)
    return row, settings


def label_numbers(asked: Any, classes: Sequence[str]) -> list[int]:
    """Indices of labels given by name. `"all"` is every class; `"none"` and None are the null label.

    Raises `UserError` for a name that is not in `classes`.
    """
    if asked is None:
        return [NO_LABEL]
    names = [str(name) for name in (asked if isinstance(asked, list | tuple) else [asked])]
    known = {"all": [*range(len(classes))] or [NO_LABEL], "none": [NO_LABEL]}
    known |= {name: [index] for index, name in enumerate(classes)}
    for name in names:
        if name not in known:
            listed = some([shown(one) for one in classes], most=20)
            knows = f"it knows {listed} (and all, none)" if classes else "it was trained on pictures without classes"
            raise UserError(f"label={name} is not known to this model; {knows}")
    return [index for name in names for index in known[name]]


def _prompts(asked: Any) -> list[str | None]:
    """The setting `prompt` as a list; [None] without one."""
    if asked is None:
        return [None]
    return [str(prompt) for prompt in (asked if isinstance(asked, list | tuple) else [asked])]


def _canvas(
    settings: PaintSettings,
    classes: Sequence[str],
    muse: Muse | None,
    *,
    seeds: tuple[int, int],
    ends: Ends,
    share: float,
) -> Canvas:
    """A canvas, named after its muse, label, prompt and seed, with the settings that repaint it."""
    names = [classes[end.label] if end.label != NO_LABEL else None for end in ends]
    shown_ends = [_end_name(name, end.prompt, seed) for name, end, seed in zip(names, ends, seeds, strict=True)]
    stem = shown_ends[0]
    told: dict[str, object] = {"label": names[0], "seed": seeds[0], "steps": settings.steps, "solver": settings.solver}
    told |= {"guidance": settings.guidance, "guidance_interval": list(settings.guidance_interval)}
    if ends[0].prompt is not None:
        told |= {"prompt": ends[0].prompt}
    if settings.negative is not None:
        told |= {"negative": settings.negative}
    if (ends[0], seeds[0]) != (ends[1], seeds[1]):
        stem = f"{shown_ends[0]}_to_{shown_ends[1]}_{share:.3f}"
        told |= {"to_label": names[1], "to_seed": seeds[1], "share": share}
        told |= {"to_prompt": ends[1].prompt} if ends[1].prompt is not None else {}
    if muse is not None:
        stem = f"{_cut(muse.name)}_{stem}"
        told |= {"muse": muse.file, "strength": settings.strength} if settings.refine is None else {"refine": muse.file}
        told |= {"muse_sha256": muse.digest}
    if settings.size != "train":
        told |= {"size": settings.size, "max_pixels": settings.most_pixels}
    return Canvas(stem, seeds, ends, share, muse, told)


def _end_name(label: str | None, prompt: str | None, seed: int) -> str:
    """Label, prompt and seed as part of a file name."""
    parts = [part for part in (label, prompt) if part]
    most = LONGEST if len(parts) < 2 else LONGEST // 2
    return "_".join([*(_cut(re.sub(r"[^\w.-]+", "_", part), most=most) for part in parts), str(seed)])


def _cut(name: str, *, most: int = LONGEST) -> str:
    """The first `most` bytes of a name: a file name may have 255 in all."""
    return name[:50].encode()[:most].decode(errors="ignore")


def _writable(name: str) -> str:
    """The name of a muse for a file name: control and undecodable characters become `_`; at most 200 bytes."""
    return re.sub("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", "_", name).encode()[:200].decode(errors="ignore")


def _at_size(
    picture: Image.Image, settings: PaintSettings, transform: Transform, multiple: int | None, *, name: str
) -> Image.Image:
    """A muse, RGB, at the size that `settings` ask for."""
    if settings.sides is not None:
        return ImageOps.fit(picture, settings.sides, Image.Resampling.BICUBIC)
    if settings.size != "own":
        return fitted(picture, transform).convert("RGB")
    if multiple is None:
        return picture
    width, height = picture.size
    sides = nearest_size(width, height, multiple, most=settings.most_pixels)
    if width * height > settings.most_pixels:
        log.warning("scaled down to %d x %d: %s (%d x %d is more than max_pixels=%s)",
                    *sides, shown(name), width, height, f"{settings.most_pixels:,}")  # fmt: skip
    return picture.resize(sides, Image.Resampling.BICUBIC)


def _decoded(settings: PaintSettings, transform: Transform) -> Iterator[tuple[str, str, pool.Read]]:
    """Yield (name, file, the picture or why it cannot be read) of every muse."""
    given = settings.muse if isinstance(settings.muse, list | tuple) else [settings.muse]
    for one in given:
        if not (one is None or isinstance(one, str | Path | Image.Image)):
            raise UserError(f"muse must be a path or a Pillow picture, or several, got {type(one).__name__}")
    pictures = [one for one in given if isinstance(one, Image.Image)]
    for index, picture in enumerate(pictures):
        name = f"muse_{index}" if len(pictures) > 1 else "muse"
        yield name, "", pool.Read(Path(name), flat(picture, WHITE).convert("RGB"))
    paths = [path for one in given if not isinstance(one, Image.Image) for path in _paths(one)]
    if paths:
        enough = None if settings.size == "own" else 2 * max(settings.sides or [transform.size])
        decoded = pool.read(paths, settings.limits, enough=enough)
        for found in tqdm(decoded, total=len(paths), desc="reading", unit=" pictures", disable=None):
            yield _writable(found.path.stem), str(found.path), found


def _paths(muse: str | Path | None) -> list[Path]:
    if muse is None:
        root = sample_art.folder(cache.default_folder())
        log.warning("muse is not set: using a picture of each style of artdiff's built-in sample art (%s)", root)
        return [min(style.iterdir()) for style in sorted(root.iterdir())]
    path = user_path(muse)
    return [path / file.path for file in scan.scan(path, name="muse").files] if path.is_dir() else [path]
