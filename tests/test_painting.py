"""Painting through the command's own function: the same seed gives the same picture, whatever is painted beside it."""

import json
from pathlib import Path

import pytest
import torch
from conftest import composed, generate, picture, put, small, train
from PIL import Image, ImageChops

from artdiff import UserError
from artdiff import painter as painter_module
from artdiff.images import Sheet, to_signed
from artdiff.ingest.decode import Transform, decode
from artdiff.networks import ViT
from artdiff.painter import Painter
from artdiff.painting.plan import canvases, label_numbers, repainting
from artdiff.settings.painting import PaintSettings
from artdiff.tasks import Autoencoding, Generation

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


@pytest.mark.slow
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


@pytest.mark.slow
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
    spaced = [
        painted(ckpt, tmp_path / name, *words, "guidance=1.0", f"spacing={name}") for name in ("uniform", "karras")
    ]
    assert same(plain["truchet_0"], spaced[0]["truchet_0"])  # pixels are painted in uniform steps
    assert not same(plain["truchet_0"], spaced[1]["truchet_0"])


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
        (("size=own",), "size=own paints at the size of a muse: set muse=PICTURE, or size=WIDTHxHEIGHT"),
        (("size=0x16",), "size must be train, own or WIDTHxHEIGHT, got 0x16"),
        (("size=25x16",), "multiples of 2 for this model, got 25x16; set size=24x16 or 26x16"),
        (("size=1x25",), "multiples of 2 for this model, got 1x25; set size=2x24 or 2x26"),
        (("size=33", "max_pixels=1100"), "multiples of 2 for this model, got 33; set size=32x32$"),
        (("size=64x32", "max_pixels=1000"), "has 2,048 pixels, more than max_pixels=1,000; set size=44x22, or max_pix"),
        (("size=own", "muse=x.png", "max_pixels=3"), "max_pixels must be at least 4 for this model, got 3"),
        (("ranges=mended",), "ranges=mended is for models that reconstruct, but"),
        (("n=0",), "n must be a whole number of at least 1, got 0"),
        (("strength=1.5",), "strength must be a share from 0 to 1, got 1.5"),
        (("interpolate=[1]",), r"interpolate must be two seeds, such as \[1,2\], got \[1\]"),
        (("interpolate=[1,2]", "muse=x.png"), "interpolate starts from noise: leave muse out"),
        (("guidance_interval=0.5",), "guidance_interval must be two times"),
        (("guidance_interval=[1.0,0.1]",), "guidance_interval must start before it ends"),
        (("label=[]",), "label is empty; expected a class by name"),
        (("solver=ddim",), "solver must be dpm_solver_2m or dpm_solver_3m or euler or heun, got ddim"),
    ],
)
def test_a_mistake_is_one_clear_line(ckpt, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "x.png")
    with pytest.raises(UserError, match=message) as caught:
        painted(ckpt, "out", *words)
    assert "\n" not in str(caught.value)


CODEC = {"patch": 4, "encoder": [16], "decoder": [16], "num_res_blocks": 1, "latent_channels": 4}
SETTINGS = {
    "network": {
        **{"_target_": "artdiff.networks.UNet", "image_size": 32, "patch": 1, "channels": [32, 32], "cond_dim": 16},
        **{"num_res_blocks": 1, "attention_resolutions": [], "dropout": 0.0},
    },
    **{"optimizer": {}, "scheduler": None, "classes": ["a", "b"], "warmup": 0, "data_std": 1.0, "time_mean": 0.0},
    **{"time_std": 1.0, "gate": 0.3, "label_dropout": 0.1, "ema_half_life": 1.0, "ema_ramp": 1.0},
}


def painter(codec="autoencoder"):
    """A painter at 32 px on latents of a quarter of the sides, or on pixels, with random weights throughout."""
    target = {"autoencoder": {"_target_": "artdiff.networks.Autoencoder", **CODEC}}
    identity = {"_target_": "artdiff.diffusion.codec.Identity"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = Generation(**SETTINGS, codec=target.get(codec, identity)).eval()
        for weight in task.ema.parameters():
            torch.nn.init.normal_(weight, std=0.05)  # also of the layers that begin at zero
    return Painter(task, Transform(32, "squash", (255, 255, 255)), Path("none"))


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["identity", "autoencoder"])
@pytest.mark.parametrize("start", ["noise", "muse"])
def test_a_rectangle_is_the_same_whatever_is_painted_beside_it(codec, start):
    one = painter(codec)
    how = {"label": ["a", "b"], "n": 3, "steps": 2, "size": "48x24", "muse": picture(1) if start == "muse" else None}
    many = [made.picture for made in one.paint(**how)]
    assert {made.size for made in many} == {(48, 24)}
    assert not same(many[0], many[1])
    for batch_size in (1, 3):
        again = [made.picture for made in one.paint(**how, batch_size=batch_size)]
        assert all(same(*pair) for pair in zip(again, many, strict=True)), batch_size
    alone = one.paint(**how | {"label": "b", "n": 1, "seed": 2})
    assert same(alone[0].picture, many[5])


def test_a_codec_gets_as_many_pictures_whatever_is_painted(monkeypatch):
    one, counts = painter(), {"encode": set(), "decode": set()}
    for name, seen in counts.items():
        original = getattr(one.task.codec, name)
        monkeypatch.setattr(one.task.codec, name, lambda z, f=original, seen=seen: seen.add(len(z)) or f(z))
    for n in (1, 20):
        one.paint(n=n, label="a", steps=1, muse=picture(1), trajectory=True)
    one.task.sample_grid(torch.zeros(2, 3, 32, 32))
    assert counts == {"encode": {16}, "decode": {16}}


def test_a_trajectory_on_latents_ends_with_the_picture():
    (made,) = painter().paint(n=1, label="a", steps=8, size="48x24", trajectory=True)
    assert made.trajectory.size == (8 * 48, 24)
    assert same(made.trajectory.crop((7 * 48, 0, 8 * 48, 24)), made.picture)


def test_a_rectangle_between_two_seeds_goes_from_one_end_to_the_other():
    one, how = painter(), {"steps": 2, "size": "24x48", "guidance_interval": (0.3, 0.7)}
    strip = one.interpolate(1, 2, n=3, label="a", **how)
    ends = one.paint(n=2, seed=1, label="a", **how)
    assert [same(strip[at].picture, end.picture) for at, end in ((0, ends[0]), (-1, ends[1]))] == [True, True]
    assert not same(strip[1].picture, ends[0].picture)


def test_a_muse_is_painted_at_its_own_shape(caplog):
    one = painter()
    muses = [picture(seed, size) for seed, size in enumerate([(48, 40), (70, 30), (69, 31), (96, 96), (3, 50)])]
    how = {"size": "own", "n": 2, "steps": 2}
    settings = PaintSettings.with_defaults(**how, muse=muses, max_pixels=64 * 64)
    made = list(one.each(settings))
    sizes = [(48, 40), (72, 32), (72, 32), (64, 64), (8, 48)]
    assert [painting.picture.size for painting in made] == [size for size in sizes for _ in range(2)]
    assert all(painting.picture.size == painting.muse.size for painting in made)
    assert caplog.messages == ["scaled down to 64 x 64: muse_3 (96 x 96 is more than max_pixels=4,096)"]
    assert {key: made[2].settings[key] for key in ("size", "max_pixels")} == {"size": "own", "max_pixels": 4096}
    alone = one.paint(**how, muse=muses[1], batch_size=1)
    assert [same(again.picture, first.picture) for again, first in zip(alone, made[2:4], strict=True)] == [True, True]


def test_a_muse_is_cropped_to_a_size_and_undistorted(ckpt, tmp_path):
    wide = Image.new("RGB", (60, 20), "red")
    wide.paste("blue", (20, 0, 40, 20))
    wide.save(tmp_path / "wide.png")
    words = (f"muse={tmp_path / 'wide.png'}", "strength=0")
    square = painted(ckpt, tmp_path / "square", *words, "size=16")["wide_0"]
    assert square.getchannel("R").getextrema()[1] < 16  # blue throughout: the middle alone
    rectangle = painted(ckpt, tmp_path / "rectangle", *words, "size=24x8")["wide_0"]
    assert rectangle.size == (24, 8)
    assert [rectangle.getpixel((x, 4)) for x in (2, 12, 21)] == [(255, 0, 0), (0, 0, 255), (255, 0, 0)]


def test_a_picture_says_its_size_unless_it_is_that_of_training(ckpt, tmp_path):
    for name, words in {"other": ("size=24x16",), "trained": ()}.items():
        made = painted(ckpt, tmp_path / name, "n=1", "label=truchet", *words)
        assert made["truchet_0"].size == ((24, 16) if words else (16, 16))
    told = [json.loads(Image.open(tmp_path / name / "truchet_0.png").info["artdiff"]) for name in ("other", "trained")]
    assert told[0] == told[1] | {"size": "24x16", "max_pixels": 1_000_000}


def test_a_network_that_does_not_say_its_sizes_paints_that_of_training_only():
    one = painter()
    del one.task.ema.multiple
    fixed = Painter(one.task, one.transform, one.path)
    with pytest.raises(UserError, match=r"size=48x24: this network paints 32x32 only; .* an attribute `multiple`"):
        fixed.paint(size="48x24")
    assert fixed.paint(n=1, label="a", steps=1, size=32)[0].picture.size == (32, 32)


def test_a_vision_transformer_paints_its_own_size_only():
    one = painter("identity")
    one.task.ema = ViT(
        classes=2, in_channels=3, image_size=32, patches=4, width=64, depth=1, bottleneck=4, cond_dim=16, dropout=0.0
    )
    with pytest.raises(UserError, match=r"size=own: this network paints 32x32 only$"):
        Painter(one.task, one.transform, one.path).paint(size="own", muse=picture(1))


@pytest.mark.parametrize("part", ["encode", "decode", "denoise"])
def test_what_is_computed_of_a_picture_does_not_depend_on_the_others(part):
    task, random = painter().task, torch.Generator().manual_seed(0)
    images, latents = (torch.randn(20, *shape, generator=random) for shape in ((3, 24, 48), (4, 6, 12)))
    compute = {
        "encode": lambda at: task.encode_in_groups(images[at]),
        "decode": lambda at: task.decode_in_groups(latents[at]),
        "denoise": lambda at: task.denoiser((torch.zeros(len(at)).long(),), guidance=1.0, interval=(0, 1))(
            latents[at], 0.5
        ),
    }[part]
    with torch.inference_mode():
        together = compute(range(20))
        for some in (range(1), range(7, 8), range(3, 6), range(10, 20)):
            assert torch.equal(compute(some), together[some.start : some.stop]), some


def test_a_codec_alone_reconstructs_a_picture_of_any_size():
    codec = {"_target_": "artdiff.networks.Autoencoder", **CODEC | {"encoder": [16, 16, 16], "decoder": [16, 16, 16]}}
    task = Autoencoding(network=codec, optimizer={}, scheduler=None, latent_noise=0.0).eval()
    one = Painter(task, Transform(32, "squash", (255, 255, 255)), Path("none"))
    (made,) = one.paint(muse=picture(1, (50, 37)), size="own")
    assert made.picture.size == (50, 37)
    assert same(made.picture, one.reconstruct(picture(1, (50, 37))))
    with pytest.raises(UserError, match="label=a needs a model that paints new pictures"):
        one.paint(muse=picture(1), label="a")


def test_labels_are_found_by_name_whatever_they_are_called():
    assert label_numbers(["b", "none", "b"], ["a", "b"]) == [1, -1, 1]
    assert label_numbers([1990], ["1980", "1990"]) == [1]
    assert label_numbers("all", ["x", "all"]) == [1]
    assert label_numbers("all", []) == [-1]
    with pytest.raises(UserError, match="label=a is not known to this model; it was trained on pictures without"):
        label_numbers("a", [])


def test_a_class_called_all_does_not_change_what_is_painted_without_a_label():
    one = PaintSettings.with_defaults(n=1)
    assert [row[0].ends[0].label for row in canvases(one, ["all", "b"], [])] == [0, 1]
    two = PaintSettings.with_defaults(n=2, interpolate=[1, 2], label=["all"])
    assert [[end.label for end in row[1].ends] for row in canvases(two, ["a", "b", "c"], [])] == [
        [0, 0],
        [1, 1],
        [2, 2],
    ]


def seen_times(one, monkeypatch):
    """The times at which the network of a painter will be called, as they come."""
    seen = []
    monkeypatch.setattr(one.task, "_denoise_in_groups", lambda noisy, time, *_: seen.append(time[0].item()) or noisy)
    return seen


@pytest.mark.parametrize(
    ("made_for", "steps", "strength", "expected"),
    [
        (4, 4, 0.6, [0.5, 0.75]),
        (4, 4, 0.05, [0.75]),
        (4, 4, 1.0, [0.0, 0.25, 0.5, 0.75]),
        (1, 1, 0.6, [0.0]),
        (4, 2, 0.6, [0.4]),
        (None, 4, 0.6, [0.4, 0.7]),
    ],
)
def test_a_model_made_for_few_steps_begins_with_a_muse_at_one_of_them(monkeypatch, made_for, steps, strength, expected):
    monkeypatch.setattr(Generation, "made_for", {} if made_for is None else {"steps": made_for})
    one = painter("identity")
    seen = seen_times(one, monkeypatch)
    how = {"steps": steps, "solver": "euler", "spacing": "uniform", "guidance": 1.0}
    (made,) = one.paint(muse=picture(1), strength=strength, **how)
    assert seen == pytest.approx(expected)
    assert made.settings["strength"] == strength
    assert (made.source is None) == (expected[0] == 0)


def test_a_muse_of_which_nothing_is_left_is_warned_of(monkeypatch):
    monkeypatch.setattr(Generation, "made_for", {"steps": 1})
    one = painter("identity")
    asked = {at: PaintSettings.with_defaults(muse=picture(1), steps=1, strength=at) for at in (0.6, 1)}
    told = {at: one.understood(settings)[1] for at, settings in asked.items()}
    assert told == {0.6: ["strength=0.6 rounds to all steps of this model, so nothing of the muse will be seen"], 1: []}


def test_a_muse_that_stays_is_not_computed(monkeypatch):
    one = painter()
    for part in ("encode", "decode"):
        monkeypatch.setattr(one.task.codec, part, lambda _: pytest.fail("computed"))
    (made,) = one.paint(muse=picture(1), strength=0)
    assert same(made.picture, made.muse)


def test_each_call_compiles_or_not_as_it_asks(monkeypatch):
    one, compiled = painter("identity"), []
    monkeypatch.setattr(torch, "compile", lambda call, **_: lambda *given: compiled.append(1) or call(*given))
    how, counts = {"n": 1, "label": "a", "steps": 1, "solver": "euler"}, []
    for mode in ("none", "default", "none", "auto", "default"):
        one.paint(**how, compile=mode)
        counts.append(len(compiled))
    assert counts == [0, 1, 1, 1, 2]


def test_many_muses_are_read_some_at_a_time(monkeypatch):
    one, read = painter("identity"), []
    muses = [picture(seed, (32, 32)) for seed in range(5)]
    how = {"n": 2, "steps": 1, "label": ["a", "b"]}
    expected = [made.picture for made in one.paint(muse=muses, **how)]
    read_muses = painter_module.read_muses

    def counted(*given, **more):
        for muse in read_muses(*given, **more):
            read.append(muse.name)
            yield muse

    monkeypatch.setattr(painter_module, "read_muses", counted)
    monkeypatch.setattr(painter_module, "MUSES_AT_ONCE", 2 * 32 * 32)
    made = []
    for painting in one.each(PaintSettings.with_defaults(muse=muses, **how)):
        made.append(painting.picture)
        assert len(read) <= -(-len(made) // 8) * 2
    assert len(made) == 5 * 2 * 2
    assert all(same(*pair) for pair in zip(made, expected, strict=True))


def test_muses_in_parts_are_all_on_the_sheet(ckpt, tmp_path, monkeypatch):
    for number in range(3):
        put(tmp_path / f"muses/{number}.jpg")
    words = (f"muse={tmp_path / 'muses'}", "strength=0.5", "label=[truchet,none]")
    whole = painted(ckpt, tmp_path / "whole", *words)
    monkeypatch.setattr(painter_module, "MUSES_AT_ONCE", 1)
    parts = painted(ckpt, tmp_path / "parts", *words)
    assert list(parts) == list(whole) and len(parts) == 3 * 2 + 1
    assert all(same(parts[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"refine": "x.png", "interpolate": [1, 2]}, "^interpolate starts from noise: leave refine out$"),
        ({"refine": "x.png", "prompt": "hills"}, "^refine paints detail, which ignores prompts: leave prompt out$"),
        ({"refine": "x.png", "negative": "sky"}, "^refine paints detail, .*: leave negative out$"),
        ({"prompt": ["hills", None]}, r"^prompt must be a text, or several, got \['hills', None\]$"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "x.png")
    with pytest.raises(UserError, match=message):
        PaintSettings.with_defaults(**given)


def test_a_refined_picture_that_names_words_is_painted_again():
    told = {"refine": "x.png", "seed": 3, "steps": 2, "solver": "heun", "prompt": "hills", "negative": "sky"}
    told |= {"size": "own", "max_pixels": 10**6}
    row, settings = repainting(told, [], picture(1), name="old.png")
    assert (row[0].seeds, settings.negative, settings.strength) == ((3, 3), None, 0)


def test_a_sheet_is_bounded():
    sheet = Sheet(lines=3)
    for row in range(2):
        sheet.begin(None)
        for _ in range(40):
            sheet.add(Image.new("RGB", (8, 8), (row * 255, 0, 0)))
    assert sheet.picture().size == (16 * 64, 3 * 64)
