"""Every experiment and every choice of a group composes and trains one batch; a mistake is one clear line."""

import csv
import math
import re
from pathlib import Path

import pytest
import torch
from conftest import composed, small, train

import artdiff
from artdiff import UserError
from artdiff.pack import pack
from artdiff.settings.base import CONF
from artdiff.settings.data import PackSettings
from artdiff.settings.training import TrainSettings

pytestmark = pytest.mark.slow

GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in ("hydra", "sweep", "search"))

ONE_BATCH = (
    *("data.image_size=16", "data.batch_size=4", "trainer.max_steps=1", "trainer.limit_val_batches=1"),
    "trainer.accelerator=cpu",
)
SMALL = {
    "artdiff.networks.UNet": ("network.channels=[32,32]", "network.cond_dim=16"),
    "artdiff.networks.ViT": (*("network.patches=4", "network.width=64", "network.depth=2"), "network.cond_dim=16"),
}
"""Smaller networks, by the class that the choice selects."""

RANDOM = ("loss.perceptual.weights=random", "loss.perceptual.layer=relu1_1")

LATENT = (
    *("data.image_size=64", "stages.codec.data.train_crop=16", "stages.refine.data.train_crop=16"),
    "refiner.channels=[32,32]",
)
TWICE = (
    *("data.image_size=64", "stages.enlarge.data.train_crop=16", "stages.refine.data.train_crop=32"),
    *("refiner.channels=[16,32]", "enlarger.channels=[16,32]"),
)
CASCADE_SIZES = ("data.image_size=64", "stages.refine.data.train_crop=16", "refiner.channels=[16,32]")
CASCADE = ("task=generation", "network=unet", "codec=resize", "codec.factor=8", "refiner=fine")
NEEDS = {
    "data=stream": ("data.root=PACKED", "data.image_size=16"),
    "task=generation": ("network=unet",),
    "task=autoencoder": ("codec=f4",),
    "task=distillation": ("network=unet", "init=PAINTER"),
    "experiment=few_steps": ("init=PAINTER",),
    "refiner=fine": ("task=generation", "network=unet", "codec=f4", "stages=latent", *LATENT),
    "task=refinement": ("codec=f4", "refiner=unet", "refiner.channels=[32,32]", "codec_from=TRAINED"),
    "stages=latent": ("task=generation", "network=unet", "codec=f4", "refiner=unet", *LATENT),
    "stages=cascade": (
        *("task=generation", "network=unet", "codec=resize", "refiner=unet", "refiner.channels=[32,32]"),
        *("data.image_size=64", "stages.refine.data.train_crop=16"),
    ),
    "enlarger=unet": (*CASCADE, "stages=twice", *TWICE),
    "stages=twice": (*CASCADE, "enlarger=unet", *TWICE),
    "experiment=latent128": LATENT,
    **dict.fromkeys(("experiment=paint128", "experiment=cascade128"), CASCADE_SIZES),
    "experiment=paint256": TWICE,
    "experiment=codec": ("data.train_crop=16",),
    **{f"network={name}": ("task=generation",) for name in ("unet", "unet_base", "unet_latent", "vit", "vit_base")},
}
"""Choices that only work with another one; TRAINED is the run of a codec, PACKED are shards."""


def _choices(group):
    return [f"{group}={path.stem}" for path in sorted(Path(CONF, group).glob("*.yaml"))]


@pytest.fixture(scope="module")
def trained(art, tmp_path_factory):
    """Trains one batch; settings that were trained before are not trained again, such as all defaults."""
    done = []
    codec, shards, painter = (tmp_path_factory.mktemp(name) / "run" for name in ("codec", "packed", "painter"))

    def trains(*choices):
        if "codec_from=TRAINED" in choices and not codec.exists():
            train(composed("train", "task=autoencoder", "codec=f4", f"data.root={art}", *ONE_BATCH, "loss=mse",
                           f"run_dir={codec}"))  # fmt: skip
        if "data.root=PACKED" in choices and not shards.exists():
            pack(PackSettings.of(composed("pack", f"data.root={art}", "data.image_size=16", f"out={shards}")))
        if "init=PAINTER" in choices and not painter.exists():
            train(composed("train", "experiment=paint32", f"data.root={art}", *ONE_BATCH, f"run_dir={painter}",
                           *SMALL["artdiff.networks.UNet"]))  # fmt: skip
        made = {"TRAINED": codec, "PACKED": shards, "PAINTER": painter}
        choices = [re.sub("|".join(made), lambda found: str(made[found[0]]), word) for word in choices]
        chosen = (f"data.root={art}", *ONE_BATCH, *choices)
        plan = composed("train", *chosen, "run_dir=unused")
        loss = RANDOM if plan["loss"].get("perceptual") else ()
        grids = ("callbacks.grids=null",) if "classes" in plan["task"] else ()  # painting takes longest
        chosen = (*chosen, *SMALL.get(plan["network"]["_target_"], ()), *loss, *grids)
        plan = composed("train", *chosen, "run_dir=unused")
        if plan not in done:
            done.append(plan)
            run = train(composed("train", *chosen, f"run_dir={tmp_path_factory.mktemp('run')}/run"))
            assert math.isfinite(run.best_loss)
            assert run.last.exists()

    return trains


@pytest.mark.parametrize("choice", [choice for group in GROUPS for choice in _choices(group)])
def test_every_choice_composes_and_trains_a_batch(trained, choice):
    trained(choice, *NEEDS.get(choice, ()))


@pytest.mark.parametrize("other", ["experiment=demo", "debug=two_steps"])
def test_a_loss_on_the_command_line_replaces_that_of_an_experiment(trained, other):
    trained(other, "loss=mse")


def test_debug_overfit_learns_one_batch(art, tmp_path):
    words = ("data.image_size=16", "data.batch_size=4", "trainer=cpu", "trainer.max_steps=60", "optimizer.lr=3e-3")
    few = ("loss.perceptual.layer=relu1_1", "trainer.log_every_n_steps=1", "logger=csv", "callbacks.grids=null")
    train(composed("train", "debug=overfit", f"data.root={art}", f"run_dir={tmp_path}", *words, *few))
    with (tmp_path / "csv/metrics.csv").open() as stream:
        losses = [float(row["train/loss"]) for row in csv.DictReader(stream) if row["train/loss"]]
    assert len(losses) == 60
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("path", sorted(Path(CONF, "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_has_at_most_15_lines_below_its_command_cost_and_result(path):
    text = path.read_text()
    assert len([line for line in text.splitlines() if not line.startswith("#")]) <= 15
    assert f"# python -m artdiff.train experiment={path.stem}" in text
    assert re.search(r"^# Cost", text, re.MULTILINE)
    assert re.search(r"result", text, re.IGNORECASE)


@pytest.mark.parametrize("sweep", sorted(Path(CONF, "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_sweep_varies_settings_that_exist(sweep):
    cfg = composed("train", f"sweep={sweep.stem}", "run_dir=unused")
    text = sweep.read_text()
    for key in re.findall(r"^      ([\w.]+):", text, re.MULTILINE):
        composed("train", f"{key}=1", "run_dir=unused")
    assert cfg["trainer"]["max_epochs"] <= 10


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.image_size=100", "must be a multiple of 8, got 100; set data.image_size=96 or 104"),
        ("data.image_size=8", "data.image_size must be a whole number of at least 16, got 8"),
        ("data.batch_size=many", "data.batch_size must be a whole number of at least 1, got many"),
        ("data.batch_size=0", "at least 1, got 0"),
        ("data.val_fraction=1.5", "data.val_fraction must lie between 0 and 1"),
        ("seed=-1", "seed must be a whole number of 0 to 4294967295, got -1"),
        ("optimizer.lr=fast", "optimizer.lr must be a number, got fast"),
        ("trainer.devices=0", "trainer.devices must be auto or a whole number of at least 1, got 0"),
        ("trainer.precision=fp16", "trainer.precision must be auto or 32-true or bf16-mixed or 16-mixed, got fp16"),
        ("data.root=", "data.root is empty; expected a folder, or null for the built-in sample art"),
        ("data.random_crop=40", "data.random_crop must be a whole number of 0 to 32, got 40"),
        ("data.fit=stretch", "data.fit must be squash or crop or pad, got stretch"),
        ("data.background=whit", "data.background must be a colour's name or #rrggbb, got whit"),
        ("data.limits.gigabytes=inf", "data.limits.gigabytes must be a number, got inf"),
        ("data.background=12", "data.background must be a colour's name or #rrggbb, got 12"),
        ("data.flip=2", "data.flip must be a share from 0 to 1, got 2"),
        ("data.min_side=-1", "data.min_side must be a whole number of at least 0, got -1"),
        ("data.resident=gpu", "data.resident must be auto or True or False, got gpu"),
        ("data.num_workers=-1", "data.num_workers must be a whole number of at least 0, got -1"),
        ("data.limits.seconds=0", "data.limits.seconds must be more than 0, got 0"),
        ("data.exclude=nowhere.txt", "data.exclude=nowhere.txt is no file; expected a list of paths or SHA-256 hashes"),
        ("data.root=2024", "data.root=2024 does not exist"),
        ("data.root=nowhere", "data.root=nowhere does not exist"),
        ("loss.perceptual.weights=vgg.pth", "vgg.pth is no file; expected auto, imagenet, random or a file"),
    ],
)
def test_a_mistake_is_one_clear_line(art, tmp_path, override, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        train(small(art, tmp_path, override))
    assert "\n" not in str(caught.value)


def test_the_old_names_of_settings_still_work(caplog):
    network = composed("train", "experiment=paint32", "network.features=64", "network.blocks=2", "run_dir=x")["network"]
    assert (network["cond_dim"], network["num_res_blocks"]) == (64, 2)
    assert "network.features is now called network.cond_dim; the old name still works" in caplog.text
    network = composed("train", "experiment=paint32", "network.attention=[16]", "run_dir=x")["network"]
    assert network["attention_resolutions"] == [16]
    network = composed("train", "experiment=paint32", "network.attention=false", "run_dir=x")["network"]
    assert (network["attention"], network["attention_resolutions"]) == (False, [8])  # what has that name today
    task = composed("train", "experiment=paint32", "network.data_std=0.4", "run_dir=x")["task"]
    assert task["data_std"] == 0.4


def test_a_component_from_outside_may_call_its_arguments_as_it_likes(art, tmp_path):
    config = small(art, tmp_path, "experiment=paint32")
    config["network"] = config["task"]["network"] = {"_target_": "my.Net", "features": 4, "channels": 64}
    config["loss"] = {"_target_": "my.Loss", "perceptual": 0.1}
    assert TrainSettings.of(config).network["channels"] == 64


def test_a_class_that_is_not_there_is_one_line(art, tmp_path):
    with pytest.raises(UserError, match=r"Error locating target 'torch.optim.Adamm'") as caught:
        artdiff.train("paint32", "trainer=cpu", data={"root": art}, optimizer={"_target_": "torch.optim.Adamm"},
                      run_dir=tmp_path / "run")  # fmt: skip
    assert "\n" not in str(caught.value)


def test_nothing_is_written_among_the_pictures(art, tmp_path):
    for name, place in (("run_dir", f"run_dir={art}/runs/x"), ("data.cache_dir", f"data.cache_dir={art}")):
        with pytest.raises(ValueError, match=f"{name}=.* lies in data.root=.*, among the pictures"):
            TrainSettings.of(small(art, tmp_path, place))
    with pytest.raises(ValueError, match=r"data.resident=true needs data.cache=true"):
        TrainSettings.of(small(art, tmp_path, "data.resident=true", "data.cache=false"))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_reported(art, tmp_path):
    with pytest.raises(UserError, match="there is no GPU that torch can use"):
        train(small(art, tmp_path, "trainer=gpu"))


def test_a_file_that_holds_no_weights_is_reported(art, tmp_path):
    (tmp_path / "weights.pth").write_text("<html>")
    with pytest.raises(Exception, match="cannot be read as weights"):
        train(small(art, tmp_path / "run", f"loss.perceptual.weights={tmp_path}/weights.pth"))
