import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from artdiff import cli
from artdiff.ingest import sample_art
from artdiff.runs import Run
from artdiff.settings import GenerateSettings, TrainSettings


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory):
    """Nothing of the user's is read or written: caches and weights lie in folders of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        yield


@pytest.fixture(scope="session")
def art(tmp_path_factory) -> Path:
    """A folder of sample art: five classes of eight pictures."""
    root = tmp_path_factory.mktemp("art")
    sample_art.paint(root, per_style=8, seed=0)
    return root


def picture(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """Soft spots of colour, like no other seed's."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def put(path: Path, seed: int | None = None) -> Path:
    """A small picture of its own, by default one that depends on the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = picture(zlib.crc32(str(path).encode(errors="surrogateescape")) if seed is None else seed)
    shown.save(path, format="JPEG", quality=90)
    return path


def composed(config: str, *overrides: object) -> dict[str, Any]:
    """The plain configuration of a command with some overrides."""
    return cli.composed(config, [str(override) for override in overrides])


def small(art: Path, run: Path, *overrides: object) -> dict[str, Any]:
    """A training configuration for two steps of small pictures on the CPU."""
    fixed = ("debug=two_steps", "trainer=cpu", f"data.root={art}", f"run_dir={run}")
    return composed("train", *fixed, *overrides)


def train(config: dict[str, Any]) -> Run:
    """Train what a configuration describes, as the command does."""
    from artdiff.train import _train

    return _train(TrainSettings.of(config))


def generate(config: dict[str, Any]) -> list[Path]:
    """Paint what a configuration describes, as the command does."""
    from artdiff.generate import generate

    return generate(GenerateSettings.of(config))


def command_line(*words: object, cwd: Path, expect: int = 0) -> str:
    """Run `python -m WORDS` as a user would → what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *(str(word) for word in words)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    assert done.returncode == expect, done.stdout
    return done.stdout
