"""Painting through the command's own function: the same seed gives the same picture, whatever is painted beside it."""

import json

import pytest
import torch
from conftest import composed, generate, put, small, train
from PIL import Image, ImageChops

from artdiff import UserError
from artdiff.images import Sheet, to_signed
from artdiff.ingest.decode import Transform, decode
from artdiff.plan import canvases, label_numbers
from artdiff.settings import PaintSettings

NETWORKS = {
    "unet": ("network=unet", "network.channels=[32,32]", "network.cond_dim=16"),
    "vit": ("network=vit", "network.patches=8", "network.width=64", "network.depth=1", "network.cond_dim=16"),
}


def trained(name, art, run):
    """A run that has learned next to nothing, but paints."""
    network = NETWORKS[name]
    learn = ("optimizer.lr=3e-2", "task.warmup=0", "task.ema_ramp=1000", "task.ema_half_life=1", "scheduler=null")
    train(small(art, run, "task=generation", *network, *learn, "data.image_size=16", "trainer.max_steps=4"))
    return run


@pytest.fixture(scope="module")
def ckpt(art, tmp_path_factory):
    return trained("unet", art, tmp_path_factory.mktemp("unet"))


def painted(ckpt, out, *words):
    """The names and pixels of what is painted, the sheet last."""
    written = generate(composed("generate", f"ckpt={ckpt}", f"out={out}", "device=cpu", "steps=3", *words))
    return {path.stem: Image.open(path).convert("RGB") for path in written}


def same(one, other):
    return one.size == other.size and ImageChops.difference(one, other).getbbox() is None


@pytest.mark.parametrize("name", NETWORKS)
def test_a_seed_is_a_picture_whatever_is_painted_beside_it(art, tmp_path, name):
    ckpt = trained(name, art, tmp_path / "run")
    many = painted(ckpt, tmp_path / "many", "n=9", "label=engraving", "seed=3")
    assert list(many) == [*(f"engraving_{seed}" for seed in range(3, 12)), "sheet"]
    assert not same(many["engraving_3"], many["engraving_4"])
    for name, words in {
        "alone": ("n=1", "seed=7", "label=engraving"),
        "small batches": ("n=5", "seed=7", "label=engraving", "batch_size=3"),
        "one by one": ("n=2", "seed=7", "label=engraving", "batch_size=1"),
        "among others": ("n=2", "seed=7", "label=[landscape,engraving]"),
    }.items():
        again = painted(ckpt, tmp_path / name, *words)
        assert same(again["engraving_7"], many["engraving_7"]), name


def test_labels_are_rows_and_all_of_them_by_default(ckpt, tmp_path):
    made = painted(ckpt, tmp_path, "n=2")
    assert len(made) == 5 * 2 + 1
    assert made["sheet"].size == (2 * made["truchet_0"].width * 4, 5 * made["truchet_0"].height * 4)
    assert not same(made["truchet_0"], made["engraving_0"])
    without = painted(ckpt, tmp_path / "none", "n=1", "label=none")
    assert list(without) == ["0", "sheet"]


def test_guidance_1_is_none_and_solvers_differ(ckpt, tmp_path):
    words = ("n=1", "label=truchet")
    plain = painted(ckpt, tmp_path / "a", *words, "guidance=1.0")
    outside = painted(ckpt, tmp_path / "b", *words, "guidance=3.0", "guidance_interval=[1.0,1.0]")
    assert same(plain["truchet_0"], outside["truchet_0"])
    assert not same(plain["truchet_0"], painted(ckpt, tmp_path / "c", *words, "guidance=3.0")["truchet_0"])
    assert not same(plain["truchet_0"], painted(ckpt, tmp_path / "d", *words, "solver=euler")["truchet_0"])


def test_a_muse_at_strength_0_is_itself_and_at_1_forgotten(ckpt, tmp_path):
    muse = put(tmp_path / "muse.png", seed=5)
    kept = painted(ckpt, tmp_path / "a", f"muse={muse}", "strength=0")
    square, _ = decode(muse.read_bytes(), Transform(16, "squash", (255, 255, 255)))
    assert same(kept["muse_0"], Image.fromarray(square))
    free = painted(ckpt, tmp_path / "b", f"muse={muse}", "strength=1", "label=truchet")
    assert same(free["muse_truchet_0"], painted(ckpt, tmp_path / "c", "n=1", "label=truchet")["truchet_0"])
    near = painted(ckpt, tmp_path / "d", f"muse={muse}", "strength=0.6", "n=3")
    assert list(near) == ["muse_0", "muse_1", "muse_2", "sheet"]
    assert near["sheet"].size[0] == 4 * 64  # the muse stands before them


def test_interpolation_goes_from_one_end_to_the_other(ckpt, tmp_path):
    strip = painted(ckpt, tmp_path / "a", "interpolate=[1,2]", "n=3", "label=[truchet,engraving]")
    ends = painted(ckpt, tmp_path / "b", "seed=1", "n=2", "label=[truchet,engraving]")
    first, middle, last, _ = strip.values()
    assert same(first, ends["truchet_1"])
    assert same(last, ends["engraving_2"])
    assert not same(middle, first)
    assert not same(middle, last)
    rows = painted(ckpt, tmp_path / "c", "interpolate=[1,2]", "n=2")
    assert len(rows) == 5 * 2 + 1


def test_a_trajectory_begins_with_noise_and_ends_with_the_picture(ckpt, tmp_path):
    made = painted(ckpt, tmp_path, "n=1", "label=truchet", "trajectory=true", "steps=12")
    with Image.open(tmp_path / "truchet_0_trajectory.png") as strip:
        assert strip.size == (8 * 16, 16)
        assert same(strip.crop((7 * 16, 0, 8 * 16, 16)), made["truchet_0"])
        noise = to_signed(torch.tensor(list(strip.crop((0, 0, 16, 16)).getdata())))
    assert noise.std() > 0.7


def test_a_picture_says_what_it_is(ckpt, tmp_path):
    painted(ckpt, tmp_path, "n=1", "label=truchet", "seed=5")
    with Image.open(tmp_path / "truchet_5.png") as picture:
        assert "trainedAlgorithmicMedia" in picture.info["XML:com.adobe.xmp"]
        settings = json.loads(picture.info["artdiff"])
    assert settings["label"] == "truchet"
    assert settings["seed"] == 5
    assert settings["guidance"] == 2.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("label=etching",), "label=etching is not known to this model; it knows colour_field, engraving, flow_field"),
        (("size=own",), "size=own needs a model that reconstructs; this one paints 16 px"),
        (("ranges=mended",), "ranges=mended says what a reconstruction's output means, but"),
        (("n=0",), "n must be a whole number of at least 1, got 0"),
        (("strength=1.5",), "strength must be a share from 0 to 1, got 1.5"),
        (("interpolate=[1]",), r"interpolate must be two seeds, such as \[1,2\], got \[1\]"),
        (("interpolate=[1,2]", "muse=x.png"), "interpolate starts from noise: leave muse out"),
        (("guidance_interval=0.5",), "guidance_interval must be two times"),
        (("guidance_interval=[1.0,0.1]",), "guidance_interval must begin before it ends"),
        (("label=[]",), "label is empty; expected a class by name"),
        (("solver=ddim",), "solver must be euler or heun, got ddim"),
    ],
)
def test_a_mistake_is_one_clear_line(ckpt, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "x.png")
    with pytest.raises(UserError, match=message) as caught:
        painted(ckpt, "out", *words)
    assert "\n" not in str(caught.value)


def test_labels_are_found_by_name_whatever_they_are_called():
    assert label_numbers(["b", "none", "b"], ["a", "b"]) == [1, -1, 1]
    assert label_numbers([1990], ["1980", "1990"]) == [1]
    assert label_numbers("all", ["x", "all"]) == [1]
    assert label_numbers("all", []) == [-1]
    with pytest.raises(UserError, match="label=a is not known to this model; it was trained on pictures without"):
        label_numbers("a", [])


def test_a_class_called_all_does_not_change_what_is_painted_without_a_label():
    one = PaintSettings.with_defaults(n=1)
    assert [row[0].labels[0] for row in canvases(one, ["all", "b"], [])] == [0, 1]
    two = PaintSettings.with_defaults(n=2, interpolate=[1, 2], label=["all"])
    assert [row[1].labels for row in canvases(two, ["a", "b", "c"], [])] == [(0, 0), (1, 1), (2, 2)]


def test_a_sheet_is_bounded():
    sheet = Sheet(lines=3)
    for row in range(2):
        sheet.begin(None)
        for _ in range(40):
            sheet.add(Image.new("RGB", (8, 8), (row * 255, 0, 0)))
    assert sheet.picture().size == (16 * 64, 3 * 64)
