"""Paints the built-in sample art: class folders of JPEG files in several styles, reproducible from a seed.

It is for the first run, the tests and the notebook, offline. No published result about art uses it.
"""

import csv
import logging
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw
from tqdm import tqdm

from artdiff import cache, files

log = logging.getLogger(__name__)

VERSION = 1
"""Part of the folder's name: increase it when the pictures change."""

SIDE = 160
"""Longer side of a picture in pixels."""

OVERSAMPLING = 2
"""Pictures are drawn this many times larger and then reduced, which smooths edges."""

PALETTES = {
    "navy and red": ("#f4ecd8", "#1d3557", "#e63946", "#457b9d", "#e9c46a"),
    "green and orange": ("#fdf6e3", "#264653", "#2a9d8f", "#f4a261", "#e76f51"),
    "slate and coral": ("#f7f3ee", "#3d405b", "#e07a5f", "#81b29a", "#f2cc8f"),
    "night and gold": ("#0b132b", "#5bc0be", "#f9c80e", "#f86624", "#ea3546"),
    "brown and wine": ("#fbf5ef", "#432818", "#99582a", "#bb9457", "#6f1d1b"),
    "teal and pink": ("#edf6f9", "#006d77", "#83c5be", "#e29578", "#ffddd2"),
}
"""Name of a palette in captions → background, then the colours to paint with."""

COUNTS = ("no", "one", "two", "three")

METADATA = "metadata.csv"


class Painted(NamedTuple):
    """A picture and its caption."""

    picture: Image.Image
    caption: str


def folder(cache_dir: Path, *, per_style: int = 200, seed: int = 0, captions: bool = False) -> Path:
    """The folder of sample art below `cache_dir`, with or without captions; painted if it does not exist."""
    root = cache_dir / f"sample_art-v{VERSION}-{per_style}-{seed}{'-captions' if captions else ''}"
    if not root.exists():
        cache.make(cache_dir)
        log.info("painting the built-in sample art, %s pictures, to %s", f"{per_style * len(STYLES):,}", root)
        unfinished = root.with_name(f"{root.name}.{secrets.token_hex(8)}.painting")
        try:
            paint(unfinished, per_style=per_style, seed=seed, captions=captions)
            unfinished.replace(root)
        except OSError as error:
            if not root.exists():  # else another run has just put the same pictures there
                raise files.cannot_write(root, error) from None
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return root


def paint(root: Path, *, per_style: int, seed: int, captions: bool = False) -> None:
    """Paint `per_style` pictures of each style into class folders of `root`; optionally write their `captions`."""
    lines = [("file_name", "text")]
    jobs = [(style, index) for style in STYLES for index in range(per_style)]
    for style, index in tqdm(jobs, desc="painting", unit=" pictures", disable=None):
        rng = np.random.default_rng((seed, sorted(STYLES).index(style), index))
        ratio = rng.choice((1.0, 4 / 5, 3 / 4, 2 / 3))
        width, height = SIDE, round(SIDE * ratio)
        if rng.random() < 0.5:
            width, height = height, width
        large, caption = STYLES[style](rng, width * OVERSAMPLING, height * OVERSAMPLING)
        path = root / style / f"{style}_{index:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        large.resize((width, height), Image.Resampling.LANCZOS).save(path, quality=90)
        lines.append((f"{style}/{path.name}", caption))
    if captions:
        with (root / METADATA).open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows(lines)


def colour_field(rng: Generator, width: int, height: int) -> Painted:
    """A few soft-edged blocks of colour, one above the other, on a background."""
    palette, ground, *colours = _palette(rng)
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = _mix(ground, colours[0], rng.uniform(0, 0.5))
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    edges = np.concatenate(([0.06], np.sort(rng.uniform(0.2, 0.8, rng.integers(1, 3))), [0.94]))
    ragged = 0.02 * _noise(rng, width, height, cells=24)
    for top, bottom in zip(edges[:-1] + 0.015, edges[1:] - 0.015, strict=True):
        inside = np.minimum(np.minimum(x - 0.08, 0.92 - x), np.minimum(y - top, bottom - y)) + ragged
        cover = np.clip(inside / 0.03, 0, 1)[..., None] * 0.94
        canvas = canvas * (1 - cover) + _rgb(rng.choice(colours)) * cover
    canvas += 5 * _noise(rng, width, height, cells=60)[..., None]
    return Painted(_to_picture(canvas), f"{COUNTS[len(edges) - 1]} soft blocks of colour, {palette}")


def engraving(rng: Generator, width: int, height: int) -> Painted:
    """Balls under one light, shaded by hatching: dark areas get a second and a third set of lines."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    horizon = rng.uniform(0.55, 0.75) * height
    tone = np.where(y > horizon, 0.55 + 0.25 * (y - horizon) / (height - horizon), 0.9 - 0.25 * y / horizon)
    tone += 0.12 * _noise(rng, width, height, cells=4)
    light = np.array([rng.choice((-0.6, 0.6)), -0.6, 0.55])
    bodies = int(rng.integers(1, 4))
    for _ in range(bodies):
        radius = rng.uniform(0.14, 0.28) * min(width, height)
        cx, cy = rng.uniform(0.2, 0.8) * width, horizon + rng.uniform(-0.6, 0.1) * radius
        shadow = ((x - cx + light[0] * radius) / (1.5 * radius)) ** 2 + ((y - cy - radius) / (0.3 * radius)) ** 2
        tone = np.where(shadow < 1, tone * 0.45, tone)
        dx, dy = (x - cx) / radius, (y - cy) / radius
        inside = dx**2 + dy**2 < 1
        dz = np.sqrt(np.clip(1 - dx**2 - dy**2, 0, None))
        shade = np.clip(dx * light[0] + dy * light[1] + dz * light[2], 0, 1)
        tone = np.where(inside, 0.08 + 0.95 * shade, tone)
    wobble = 6 * _noise(rng, width, height, cells=6)
    ink = np.zeros((height, width), np.float32)
    spacing = rng.uniform(8, 10)
    angle = rng.uniform(0, np.pi)
    for layer, (turn, from_tone) in enumerate(((0.0, 1.0), (1.1, 0.62), (2.0, 0.34))):
        across = x * np.cos(angle + turn) + y * np.sin(angle + turn) + wobble
        line = np.abs((across / spacing) % 1 - 0.5) * 2  # 0 on a line's axis, 1 between two lines
        wide = np.clip((from_tone - tone) * (1.0 if layer else 0.8), 0, 0.75)
        ink = np.maximum(ink, np.clip((wide - line) * spacing / 2 + 0.5, 0, 1) * (wide > 0.03))
    grey = 244 - 18 * (_noise(rng, width, height, cells=5) + 1) / 2 - 215 * ink
    picture = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
    side = "left" if light[0] < 0 else "right"
    return Painted(
        picture, f"engraving of {COUNTS[bodies]} {'ball' if bodies == 1 else 'balls'}, light from the {side}"
    )


def flow_field(rng: Generator, width: int, height: int) -> Painted:
    """Long strokes that follow a smooth field of directions."""
    palette, ground, *colours = _palette(rng)
    picture = Image.new("RGB", (width, height), ground)
    draw = ImageDraw.Draw(picture)
    angle = rng.uniform(0, 2 * np.pi) + 2.5 * _noise(rng, width, height, cells=3)
    count, steps, pace = 260, 34, 5.0
    at = rng.uniform(0, 1, (count, 2)) * (width, height)
    paths = np.empty((steps, count, 2))
    for step in range(steps):
        paths[step] = at
        column = np.clip(at[:, 0], 0, width - 1).astype(int)
        row = np.clip(at[:, 1], 0, height - 1).astype(int)
        heading = angle[row, column]
        at = at + pace * np.stack((np.cos(heading), np.sin(heading)), axis=1)
    for stroke in range(count):
        line = [tuple(point) for point in paths[:, stroke]]
        draw.line(line, fill=rng.choice(colours), width=int(rng.integers(2, 8)), joint="curve")
    return Painted(picture, f"flowing strokes, {palette}")


def landscape(rng: Generator, width: int, height: int) -> Painted:
    """Mountain ridges one behind the other, paler with distance, under a sky with a sun or a moon."""
    dusk = rng.uniform(0, 1)
    top, low = _mix("#3a6ea5", "#2b1b4d", dusk), _mix("#f6e7c8", "#f28c5b", dusk)
    near = _mix("#1f3d2b", "#1a1030", rng.uniform(0, 1))
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    canvas = np.broadcast_to(top * (1 - y) + low * y, (height, width, 3)).copy()
    column, line = np.arange(width), np.arange(height)[:, None]
    radius = rng.uniform(0.05, 0.11) * width
    away = np.hypot(column - rng.uniform(0.15, 0.85) * width, line - rng.uniform(0.12, 0.4) * height)
    disc = np.clip(radius - away, 0, 1)[..., None]
    canvas = canvas * (1 - disc) + _rgb("#fff6dc") * disc
    layers = int(rng.integers(4, 7))
    for layer in range(layers):
        depth = layer / (layers - 1)
        base = height * (0.42 + 0.45 * depth)
        ridge = base + height * sum(
            rng.uniform(0.02, 0.1)
            / octave
            * np.sin(column / width * np.pi * octave * rng.uniform(1, 3) + rng.uniform(0, 6.3))
            for octave in (1, 2, 4, 9)
        )
        cover = np.clip(line - ridge, 0, 1)[..., None]
        canvas = canvas * (1 - cover) + (low * (1 - depth) + near * depth) * cover
    canvas += 5 * _noise(rng, width, height, cells=70)[..., None]
    return Painted(_to_picture(canvas), f"landscape of hills under a {'dusky' if dusk > 0.5 else 'bright'} sky")


def truchet(rng: Generator, width: int, height: int) -> Painted:
    """Square tiles with two quarter circles each, turned at random, so that the arcs join into winding bands."""
    palette, ground, *colours = _palette(rng)
    picture = Image.new("RGB", (width, height), ground)
    draw = ImageDraw.Draw(picture)
    tile = int(rng.choice((32, 40, 52, 64)))
    band = max(4, round(tile * rng.uniform(0.18, 0.36)))
    one, other = rng.choice(colours, 2, replace=False)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            colour = one if (left // tile + top // tile) % 2 else other
            corners = ((0, 0), (tile, tile)) if rng.random() < 0.5 else ((tile, 0), (0, tile))
            for dx, dy in corners:
                cx, cy, radius = left + dx, top + dy, (tile + band) // 2
                start = {(False, False): 0, (True, False): 90, (True, True): 180, (False, True): 270}[(dx > 0, dy > 0)]
                box = (cx - radius, cy - radius, cx + radius, cy + radius)
                draw.arc(box, start, start + 90, fill=str(colour), width=band)
    size = "small" if tile < 45 else "large"
    return Painted(picture, f"winding bands of {size} tiles, {palette}")


STYLES: dict[str, Callable[[Generator, int, int], Painted]] = {
    style.__name__: style for style in (colour_field, engraving, flow_field, landscape, truchet)
}


def _palette(rng: Generator) -> list[str]:
    """The name of a palette, its background and its other colours."""
    name = list(PALETTES)[rng.integers(len(PALETTES))]
    ground, *colours = PALETTES[name]
    return [name, ground, *(str(colour) for colour in rng.permutation(colours))]


def _rgb(colour: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8).astype(np.float32)


def _mix(one: str, other: str, share: float) -> np.ndarray:
    return _rgb(one) * (1 - share) + _rgb(other) * share


def _noise(rng: Generator, width: int, height: int, *, cells: int) -> np.ndarray:
    """Smooth noise float32 (height,width) in about [-1,1], with about `cells` bumps across."""
    coarse = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _to_picture(canvas: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
