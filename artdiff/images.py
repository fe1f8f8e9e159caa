"""Pictures: conversions between value ranges (done only here), grids and sheets.

Ranges: `uint8` [0,255] on disk and in loaders; *signed* float [-1,1] inside artdiff; *unit* float [0,1], the output of
a sigmoid and the input of metrics; *ImageNet-normalised* float (about -2.1 to 2.6), the input of VGG16 and of the
article's network. Shape letters: B pictures, H and W pixels; channels are red, green, blue.
"""

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from artdiff.files import write

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

CELL_LEAST, CELL = 64, 256
"""Smallest and largest width of a sheet's square cells, in pixels."""

CAPTION = 18
"""Height of a caption in pixels."""

SHEET_COLUMNS = 16
"""Most pictures per line of a `Sheet`."""


def to_signed(image: Tensor) -> Tensor:
    """`uint8` [0,255] → float32 [-1,1], any shape."""
    return image.float().div_(127.5).sub_(1.0)


def to_uint8(image: Tensor) -> Tensor:
    """Signed [-1,1] → `uint8` [0,255], rounded to nearest, clamped; any shape. Inverts `to_signed` exactly."""
    return image.float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def signed_to_unit(image: Tensor) -> Tensor:
    """Signed [-1,1] → unit [0,1], any shape, not clamped."""
    return (image + 1.0) / 2.0


def unit_to_signed(image: Tensor) -> Tensor:
    """Unit [0,1] → signed [-1,1], any shape, not clamped."""
    return image * 2.0 - 1.0


def imagenet_normalise(image: Tensor) -> Tensor:
    """Unit [0,1] (…,3,H,W) → ImageNet-normalised (…,3,H,W)."""
    mean, std = _imagenet(image.device)
    return (image - mean) / std


def imagenet_denormalise(image: Tensor) -> Tensor:
    """ImageNet-normalised (…,3,H,W) → unit [0,1] (…,3,H,W), not clamped."""
    mean, std = _imagenet(image.device)
    return image * std + mean


@lru_cache
def _imagenet(device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # the result is cached, and training cannot use an inference tensor
        mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=device).view(2, 3, 1, 1)
    return mean, std


def signed_to_imagenet(image: Tensor) -> Tensor:
    """Signed [-1,1] (…,3,H,W) → ImageNet-normalised (…,3,H,W), the input of losses."""
    return imagenet_normalise(signed_to_unit(image))


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad (B,3,H,W) by repeating its last pixels until H and W are multiples; `[..., :H, :W]` crops back."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def grid(lines: Sequence[Tensor], *, max_side: int) -> Tensor:
    """Rows of signed pictures, each (B,3,H,W) → one signed picture (3, rows·h, B·w); h and w at most `max_side`."""
    height, width = lines[0].shape[-2:]
    shrink = max(height, width) / max_side
    if shrink > 1:
        size = (max(1, round(height / shrink)), max(1, round(width / shrink)))
        lines = [F.interpolate(line.float(), size=size, mode="area") for line in lines]
    return torch.cat([torch.cat(list(line), dim=-1) for line in lines], dim=-2)


class Colours(NamedTuple):
    """Statistics of pictures in [0,1], per channel (3,): the mean, and the mean standard deviation within a picture."""

    mean: Tensor
    spread: Tensor


def colours(image: Tensor) -> Colours:
    """Channel statistics of signed pictures (B,3,H,W)."""
    unit = signed_to_unit(image).flatten(2)  # (B,3,H·W)
    return Colours(unit.mean(dim=(0, 2)), unit.std(dim=2).mean(dim=0))


def captioned(picture: Image.Image, captions: Sequence[str]) -> Image.Image:
    """A grid with a caption above each of its equally high rows. Without captions, the grid unchanged."""
    if not captions:
        return picture
    height = picture.height // len(captions)
    paper = Image.new("RGB", (picture.width, (height + CAPTION) * len(captions)), "white")
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(CAPTION * 0.7)
    for index, caption in enumerate(captions):
        top = index * (height + CAPTION)
        draw.text((2, top + 2), caption, fill="black", font=font)
        paper.paste(picture.crop((0, index * height, picture.width, (index + 1) * height)), (0, top + CAPTION))
    return paper


def thumbnail(picture: Image.Image) -> Image.Image:
    """A copy that fits into a sheet's largest cell, `CELL` pixels wide and high."""
    small = picture.copy()
    small.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    return small


def sheet(stacks: Sequence[tuple[Image.Image, ...]], *, columns: int = 8) -> Image.Image:
    """Place stacks side by side. A stack holds RGB pictures of any size one above the other; all are equally long."""
    largest = max(max(picture.size) for stack in stacks for picture in stack)
    side = min(CELL, max(CELL_LEAST, largest))
    columns, height = min(columns, len(stacks)), len(stacks[0])
    lines = -(-len(stacks) // columns)
    paper = Image.new("RGB", (columns * side, lines * height * side), "white")
    for index, stack in enumerate(stacks):
        line, column = divmod(index, columns)
        for below, picture in enumerate(stack):
            fitted = ImageOps.pad(picture, (side, side), color="white")
            paper.paste(fitted, (column * side, (height * line + below) * side))
    return paper


class Sheet:
    """A contact sheet: rows of thumbnails, each starting with its muse if it has one.

    A long row continues on the next line. At most `lines` lines of 16 pictures; further pictures are left out.
    """

    def __init__(self, lines: int) -> None:
        self.most = lines
        self.lines = list[list[Image.Image]]()
        self.full = False

    def begin(self, muse: Image.Image | None) -> None:
        """Start a row."""
        self.full = len(self.lines) == self.most
        if not self.full:
            self.lines.append([] if muse is None else [thumbnail(muse)])

    def add(self, picture: Image.Image) -> None:
        """Add a picture to the row."""
        if not self.full and len(self.lines[-1]) == SHEET_COLUMNS:
            self.begin(None)
        if not self.full:
            self.lines[-1].append(thumbnail(picture))

    def picture(self) -> Image.Image:
        """The sheet so far, RGB."""
        columns = max(len(line) for line in self.lines)
        blank = Image.new("RGB", self.lines[0][0].size, "white")
        cells = [picture for line in self.lines for picture in [*line, *[blank] * (columns - len(line))]]
        return sheet([(picture,) for picture in cells], columns=columns)


def from_pillow(picture: Image.Image) -> Tensor:
    """An RGB Pillow picture → signed (3,H,W)."""
    return to_signed(torch.from_numpy(np.array(picture)).permute(2, 0, 1))


def to_pillow(image: Tensor) -> Image.Image:
    """A signed picture (3,H,W) → an RGB Pillow picture."""
    return Image.fromarray(to_uint8(image).permute(1, 2, 0).contiguous().cpu().numpy())


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference between pixels of two RGB pictures, in [0,255]; 255 if their sizes differ."""
    if one.size != other.size:
        return 255
    return max(high for _, high in ImageChops.difference(one, other).getextrema())  # type: ignore[misc]


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG. Raises `UserError` if it cannot be written."""
    content = io.BytesIO()
    picture.save(content, format="PNG")
    write(path, content.getvalue())
