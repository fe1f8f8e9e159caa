"""The Python API: what is documented runs, and importing it is cheap."""

import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from conftest import in_process, put, small, train
from PIL import Image, ImageChops

import artdiff
from artdiff import UserError

PAINTS = ("task=generation", "network=unet", "network.channels=[16,32]", "network.cond_dim=16", "scheduler=null")


@pytest.fixture(scope="module")
def runs(art, tmp_path_factory):
    """A run that paints and one that reconstructs."""
    folder = tmp_path_factory.mktemp("runs")
    quick = ("data.image_size=16", "callbacks.grids=null", "loss.perceptual.layer=relu1_1")
    return train(small(art, folder / "paints", *PAINTS, *quick)), train(small(art, folder / "copies", *quick))


def same(one, other):
    return one.size == other.size and ImageChops.difference(one, other).getbbox() is None


@pytest.mark.parametrize("module", ["artdiff.train", "artdiff.audit"])
def test_examples_in_docstrings_run(module, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(import_module(module))
    assert result.attempted > 3
    assert result.failed == 0


def test_importing_artdiff_imports_nothing_slow():
    look = "import sys, artdiff; print(*(name for name in ('torch', 'hydra', 'PIL', 'numpy') if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", look], text=True, capture_output=True, check=True)
    assert done.stdout == "\n"


def test_every_public_name_is_there():
    assert set(artdiff.__all__) <= set(dir(artdiff))
    assert all(getattr(artdiff, name) for name in artdiff.__all__)
    with pytest.raises(AttributeError, match="no attribute 'pant'"):
        artdiff.pant  # noqa: B018


@pytest.mark.slow
def test_a_painter_paints_what_it_is_asked_for(runs, tmp_path):
    painter = artdiff.load(runs[0], device="cpu")
    assert painter.paints
    one, two = painter.paint(n=2, label="engraving", seed=3, steps=2)
    assert (one.name, two.name) == ("engraving_3", "engraving_4")
    assert (one.picture.size, one.trajectory) == ((16, 16), None)
    assert one.settings["seed"] == 3
    again = artdiff.load(str(runs[0].folder), device="cpu").paint(n=1, label="engraving", seed=4, steps=2)
    assert same(again[0].picture, two.picture)
    one.save(tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as saved:
        assert "trainedAlgorithmicMedia" in saved.info["XML:com.adobe.xmp"]
    assert len(painter.paint(n=1, steps=1)) == 5  # every class


def test_muses_are_paths_or_pictures(runs, tmp_path):
    painter, path = artdiff.load(runs[0], device="cpu"), put(tmp_path / "muse.jpg", seed=5)
    with Image.open(path) as picture:
        from_picture = painter.paint(muse=picture.convert("RGBA"), strength=0.5, steps=2)
    from_path = painter.paint(muse=path, strength=0.5, steps=2)
    assert [one.name for one in from_picture + from_path] == ["muse_0", "muse_0"]
    assert same(from_picture[0].picture, from_path[0].picture)


def test_interpolating_goes_from_one_seed_to_the_other(runs):
    painter = artdiff.load(runs[0], device="cpu")
    strip = painter.interpolate(1, 2, n=3, label="truchet", steps=2)
    ends = painter.paint(n=2, seed=1, label="truchet", steps=2)
    assert same(strip[0].picture, ends[0].picture)
    assert same(strip[-1].picture, ends[1].picture)


def test_a_trajectory_is_made_only_when_asked_for(runs):
    painter = artdiff.load(runs[0], device="cpu")
    (plain,), (shown,) = (painter.paint(n=1, label="none", steps=8, trajectory=asked) for asked in (False, True))
    assert plain.trajectory is None
    assert shown.trajectory.size == (8 * 16, 16)
    assert same(plain.picture, shown.picture)


def test_a_reconstruction_keeps_the_size_of_its_muse(runs):
    copier = artdiff.load(runs[1], device="cpu")
    assert not copier.paints
    assert copier.reconstruct(Image.new("L", (21, 34))).size == (21, 34)


@pytest.mark.parametrize(
    ("index", "call", "message"),
    [
        (0, lambda painter: painter.paint(steps=0), "steps must be a whole number of at least 1, got 0"),
        (0, lambda painter: painter.paint(label="etching"), "label=etching is not known to this model"),
        (0, lambda painter: painter.paint(muse=np.zeros((8, 8, 3))), "muse must be a path or a Pillow picture"),
        (0, lambda painter: painter.paint(seed=2**63 - 1, n=2), "is too large for 2 pictures"),
        (0, lambda painter: painter.paint(refine="x.png", strength=0.9), "leave strength out"),
        (0, lambda painter: painter.paint(refine=""), "refine is empty"),
        (0, lambda painter: painter.paint(muse="nowhere.jpg"), "muse=nowhere.jpg does not exist"),
        (0, lambda painter: painter.reconstruct(Image.new("RGB", (8, 8))), "this model paints new pictures"),
        (1, lambda painter: painter.paint(n=2), "n=2 needs a model that paints new pictures"),
    ],
)
def test_a_mistake_is_one_line(runs, index, call, message):
    with pytest.raises(UserError, match=message) as caught:
        call(artdiff.load(runs[index], device="cpu"))
    assert "\n" not in str(caught.value)


def test_training_takes_words_and_values(art, tmp_path):
    few = {"max_steps": 1, "limit_val_batches": 1, "log_every_n_steps": 1}
    data = {"root": art, "image_size": 16, "batch_size": 4}
    network = {"channels": [16, 32], "cond_dim": 16}
    run = artdiff.train(
        "paint32", "trainer=cpu", "callbacks.grids=null", data=data, trainer=few, network=network,
        run_dir=tmp_path / "it's a run",
    )  # fmt: skip
    assert run.folder == tmp_path / "it's a run"
    assert run.metadata["steps"] == 1
    assert run.best_loss > 0
    with pytest.raises(UserError, match=r"image_size must be a multiple of 8, got 20"):
        artdiff.train("paint32", data={"root": art, "image_size": 20}, run_dir=tmp_path / "x")
    with pytest.raises(UserError, match="experiment"):
        artdiff.train("paint33", run_dir=tmp_path / "x")


def test_a_run_stands_for_its_folder():
    run = artdiff.Run(Path("runs/it's"))
    words = [*artdiff.train._words({"init": run, "network": {"depth": 2}})]
    assert words == [r"init='runs/it\'s'", "++network.depth=2"]


def test_runs_dir_is_where_runs_are_written_and_looked_for(art, tmp_path, caplog):
    caplog.set_level("INFO")
    few = {"max_steps": 1, "limit_val_batches": 1}
    given = {"data": {"root": art, "image_size": 16, "batch_size": 4}, "trainer": few}
    given["network"] = {"channels": [16, 32], "cond_dim": 16}
    quiet = ("trainer=cpu", "callbacks.grids=null")
    first = artdiff.train("paint32", *quiet, **given, runs_dir=tmp_path / "elsewhere")
    assert first.folder.parent == tmp_path / "elsewhere/paint32"
    second = artdiff.train("paint32", *quiet, f"runs_dir={tmp_path}/elsewhere", **given, init="last")
    assert second.folder.parent == first.folder.parent
    assert f"new run from the weights of {first.last}" in caplog.text


def test_names_that_look_like_numbers_are_names_from_training_to_painting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        for name in ("1990", "1_000", "null"):
            put(tmp_path / f"2024_05/{name}/{number}.jpg")
    data = {"root": "2024_05", "image_size": 16, "batch_size": 4, "cache_dir": "1e3"}
    tiny = {"channels": [16, 32], "cond_dim": 16, "attention_resolutions": []}
    few = {"max_steps": 1, "accelerator": "cpu", "limit_val_batches": 1}
    run = artdiff.train("paint32", data=data, network=tiny, trainer=few, run_dir="0x10", callbacks={"grids": None})
    assert run.folder.name == "0x10"
    assert (tmp_path / "1e3").is_dir()
    painter = artdiff.load("0x10", device="cpu")
    assert painter.classes == ["1990", "1_000", "null"]
    assert [one.name for one in painter.paint(n=1, label="1_000", steps=1)] == ["1_000_0"]
    words = ("ckpt=0x10", "label=[1_000,1990,null]", "n=1", "steps=1", "device=cpu", "out=2024_01_15")
    in_process("artdiff.generate", *words, cwd=tmp_path)
    names = {"1_000_0.png", "1990_0.png", "null_0.png", "sheet.png"}
    assert {path.name for path in (tmp_path / "2024_01_15").iterdir()} == names
    in_process("artdiff.generate", "-m", "ckpt=0x10", "label=1_000,'null'", *words[2:], cwd=tmp_path)
    assert len(list((tmp_path / "2024_01_15").iterdir())) == 4 + 4


def test_paths_from_python_may_be_paths(tmp_path):
    put(tmp_path / "art/one.jpg"), put(tmp_path / "art/two.jpg")
    found = artdiff.inspect(tmp_path / "art", cache_dir=tmp_path / "cache", image_size=16)
    assert len(found.index.used) == 2
    assert (tmp_path / "cache").is_dir()
