import io
import logging
import os
import shutil
import subprocess
import sys
import zlib
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import vgg16

from artdiff import cli
from artdiff.ingest import sample_art
from artdiff.runs import Run
from artdiff.settings.painting import GenerateSettings
from artdiff.settings.training import TrainSettings


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory):
    """Nothing of the user's is read or written: caches and weights lie in folders of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread_each():
    """Processes that run tests side by side compute with one thread each, and so do those that they start."""
    with pytest.MonkeyPatch.context() as patch:
        if "PYTEST_XDIST_WORKER" in os.environ:
            torch.set_num_threads(1)
            patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_vgg16():
    """Build VGG16 without the 138 million weights that torchvision draws (0.7 s), all of which are then replaced.

    It draws them from torch's global generator, so networks that are built afterwards get other initial weights.
    """
    from artdiff.losses import perceptual

    def quick(**how):
        with torch.device("meta"):
            network = vgg16(**how)
        return SimpleNamespace(features=network.features.to_empty(device="cpu"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perceptual, "vgg16", quick)
        yield


CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)

in_a_browser = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="Chromium is not installed (Debian: apt install chromium)"
)
"""For tests that look at a page in the `browser`."""


@pytest.fixture(scope="module")
def browser():
    """Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None, "CI installs Chromium"
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


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


def in_process(module: str, *words: object, cwd: Path, expect: int = 0) -> str:
    """Run `python -m MODULE WORDS` without a new process, which would cost seconds of imports; return its output."""
    root, output, code = logging.getLogger(), io.StringIO(), 0
    handlers, level = root.handlers[:], root.level
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(output):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [module, *(str(word) for word in words)])
        try:
            import_module(module).main()
        except SystemExit as end:
            code = end.code
        finally:
            for handler in set(root.handlers) - set(handlers):
                handler.close()
            root.handlers[:] = handlers
            root.setLevel(level)
    assert code == expect, output.getvalue()
    return output.getvalue()


def command_line(*words: object, cwd: Path, expect: int = 0) -> str:
    """Run `python -m WORDS` in a process of its own; return its output."""
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
