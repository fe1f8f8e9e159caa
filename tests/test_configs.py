"""Every experiment and every choice of a group composes, and trains one batch."""

import re
from pathlib import Path

import pytest
from conftest import composed, small

from artdiff.config import check_training, plain
from artdiff.door import CONF
from artdiff.train import train

GROUPS = ("data", "network", "loss", "task", "trainer", "callbacks", "logger", "experiment", "debug")


def _choices(group):
    return [f"{group}={path.stem}" for path in sorted(Path(CONF, group).glob("*.yaml"))]


@pytest.mark.parametrize("choice", [choice for group in GROUPS for choice in _choices(group)])
def test_every_choice_composes_and_trains_a_batch(art, tmp_path, choice):
    without = {"trainer=gpu": ["trainer.accelerator=cpu"], "loss=mse": ["~debug"], "debug=two_steps": []}
    overrides = [
        "data.image_size=16",
        "data.batch_size=4",
        "trainer.max_steps=1",
        "+trainer.limit_val_batches=1",
    ]
    if choice != "loss=mse":
        overrides += ["loss.perceptual.weights=random", "loss.perceptual.layer=relu1_2"]
    if choice == "debug=two_steps":
        overrides.remove("+trainer.limit_val_batches=1")
    overrides += without.get(choice, [])
    cfg = composed("train", choice, f"data.root={art}", f"run_dir={tmp_path}", *overrides)
    assert train(cfg) > 0
    assert (tmp_path / "checkpoints/last.ckpt").exists()


@pytest.mark.parametrize("path", sorted(Path(CONF, "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_is_a_short_diff_headed_by_its_command(path):
    text = path.read_text()
    assert len([line for line in text.splitlines() if not line.startswith("#")]) <= 15
    assert f"# python -m artdiff.train experiment={path.stem}" in text


@pytest.mark.parametrize("sweep", sorted(Path(CONF, "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_sweep_varies_values_that_exist(sweep):
    cfg = composed("train", f"sweep={sweep.stem}", "run_dir=unused")
    text = sweep.read_text()
    for key in re.findall(r"^      ([\w.]+):", text, re.MULTILINE):
        composed("train", f"{key}=1", "run_dir=unused")
    assert plain(cfg)["trainer"]["max_epochs"] > 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.image_size=100", "must be a multiple of 8, got 100; set data.image_size=96 or 104"),
        ("data.image_size=8", "data.image_size must be a whole number of at least 16, got 8"),
        ("data.batch_size=many", "data.batch_size must be a whole number of at least 1, got many"),
        ("data.batch_size=0", "at least 1, got 0"),
        ("data.val_fraction=1.5", "data.val_fraction must lie between 0 and 1"),
        ("seed=-1", "seed must be a whole number"),
        ("data.root=nowhere", "data.root=nowhere does not exist"),
        ("loss.perceptual.weights=vgg.pth", "vgg.pth is no file; expected auto, imagenet, random or a file"),
    ],
)
def test_a_mistake_is_one_clear_line(art, tmp_path, override, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        check_training(plain(small(art, tmp_path, override)), one_of_several=False)
    assert "\n" not in str(caught.value)


def test_a_multirun_over_several_devices_is_refused(art, tmp_path):
    config = plain(small(art, tmp_path, "trainer.devices=2"))
    check_training(config, one_of_several=False)
    with pytest.raises(ValueError, match="set trainer.devices=1"):
        check_training(config, one_of_several=True)
