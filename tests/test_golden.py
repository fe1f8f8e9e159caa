"""Today's code computes what the recordings in `golden/` say: losses, weights, pictures and help texts.

`golden/record.py` made them. On the machine that it names, results are equal bit for bit; elsewhere floating-point
numbers round differently, so they are only close.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import composed, generate, train
from golden import record
from PIL import Image
from torchvision.models import vgg16

pytestmark = pytest.mark.slow

GOLDEN = json.loads(record.GOLDEN.read_text())
THREADS = GOLDEN["machine"]["threads"]
SAME_MACHINE = GOLDEN["machine"] == record.machine() | {"threads": min(THREADS, os.cpu_count() or 1)}


@pytest.fixture(autouse=True)
def recorded_threads():
    """Compute with as many threads as the recording: sums are rounded differently with others."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def original_vgg16(monkeypatch):
    """The runs were recorded with the weights that VGG16 leaves to the networks built after it."""
    monkeypatch.setattr("artdiff.losses.perceptual.vgg16", vgg16)


@pytest.fixture(scope="module")
def flat(art, tmp_path_factory):
    """The same pictures without class folders."""
    folder = tmp_path_factory.mktemp("flat")
    for path in art.rglob("*.jpg"):
        shutil.copy(path, folder / path.name)
    return folder


def compare(run, recorded):
    """The losses of a run, and its weights, against the recording."""
    logged = record.logged(run)
    for term, values in recorded["logged"].items():
        if SAME_MACHINE:
            assert logged[term] == values, term
        else:
            assert logged[term] == pytest.approx(values, rel=2e-2), term
    if SAME_MACHINE:
        assert record.weights_of(run / "checkpoints/last.ckpt") == recorded["weights"]


@pytest.mark.parametrize("name", record.RUNS)
def test_a_short_run_has_the_recorded_losses_and_weights(art, tmp_path, name):
    words = (f"data.root={art}", f"run_dir={tmp_path}/run", *record.SHORT, *record.RUNS[name])
    train(composed("train", *words))
    compare(tmp_path / "run", GOLDEN["runs"][name])


@pytest.mark.parametrize("name", record.CARRIED_ON)
def test_an_old_checkpoint_is_carried_on_as_recorded(art, flat, tmp_path, name):
    root = flat if "unlabelled" in name else art
    words = (f"data.root={root}", f"run_dir={tmp_path}/run", *record.SHORT, *record.CARRIED_ON[name])
    train(composed("train", *words, f"ckpt={record.unpacked(name, tmp_path)}"))
    compare(tmp_path / "run", GOLDEN["carried_on"][name])


@pytest.mark.parametrize("name", record.PAINTED)
def test_an_old_checkpoint_paints_the_recorded_pictures(art, tmp_path, name):
    ckpt, words = record.unpacked(record.checkpoint_of(name), tmp_path), record.painting(name, art)
    generate(composed("generate", f"ckpt={ckpt}", f"out={tmp_path}/out", "device=cpu", *words))
    painted = sorted(path for path in (tmp_path / "out").glob("*.png") if path.stem != "sheet")
    expected = sorted(record.PICTURES.glob(f"{name}.*.png"))
    assert [f"{name}.{path.name}" for path in painted] == [path.name for path in expected]
    for one, other in zip(painted, expected, strict=True):
        difference = np.abs(pixels(one) - pixels(other))
        assert difference.max() <= (0 if SAME_MACHINE else 2), one.name


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def _is_offered(line, printed):
    """Whether a line is printed, or for a list of choices one with more of them."""
    name, _, choices = line.partition(": ")
    if line in printed or not re.fullmatch(r"\w+(, \w+)*", choices):
        return line in printed
    offered = [other.partition(": ")[2].split(", ") for other in printed if other.startswith(f"{name}: ")]
    return any(set(choices.split(", ")) <= set(more) for more in offered)


def test_every_command_prints_the_recorded_help(tmp_path):
    """New settings may be added, and objects may move; nothing that was there is gone."""
    environment = {**os.environ, "COLUMNS": "100"}
    words = [(sys.executable, "-m", f"artdiff.{name}", "--help") for name in record.COMMANDS]
    started = [subprocess.Popen(one, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) for one in words]
    for name, process in zip(record.COMMANDS, started, strict=True):
        printed = process.communicate()[0].splitlines()
        recorded = (record.HELP / f"{name}.txt").read_text().splitlines()
        gone = [line for line in recorded if not _is_offered(line, printed) and "_target_" not in line]
        assert not gone, f"artdiff.{name}"
