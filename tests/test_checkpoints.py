"""Checkpoints are read safely, old ones too, and name no code outside artdiff unless they are trusted."""

import os
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from golden import record

from artdiff import UserError
from artdiff.checkpoints import Earlier, difference, earlier, restore, trained_parts
from artdiff.networks import ConvDiffusionModel, UNet
from artdiff.tasks import Generation

NETWORK = {"_target_": "artdiff.networks.ConvDiffusionModel"}
DATA = {"image_size": 16, "fit": "squash", "background": "white"}


@pytest.fixture
def article_file(tmp_path):
    torch.manual_seed(0)
    torch.save(ConvDiffusionModel().state_dict(), tmp_path / "article.pth")
    return tmp_path / "article.pth"


def test_a_state_dict_of_the_article_is_restored(article_file):
    model, transform, _ = restore(article_file)
    assert (model.ranges, transform.size, model.training) == ("published", 128, False)
    for key, value in torch.load(article_file, weights_only=True).items():
        assert torch.equal(model.network.state_dict()[key], value)
    assert restore(article_file, ranges="mended").task.ranges == "mended"


def test_carrying_on_needs_more_than_weights(article_file):
    with pytest.raises(UserError, match="holds only weights"):
        earlier(article_file)


def test_carrying_on_allows_new_settings_only_with_their_defaults():
    unet = {"_target_": "artdiff.networks.UNet", "patch": 1}
    begun = Earlier(Path("last.ckpt"), 1, {"network": unet, "gate": 0.3}, "Generation")
    task = {"_target_": "artdiff.tasks.Generation", "network": unet, "gate": 0.3}
    begun.check_fits(task | {"refiner": None, "network": unet | {"detail_channels": 0}})
    assert difference("network", unet, unet | {"detail_channels": 0}) is None
    assert difference("optimizer", {"_target_": "torch.optim.Adam", "foreach": None}, {"_target_": "torch.optim.Adam"})
    for other in ({"refiner": unet}, {"network": unet | {"detail_channels": 8}}, {"gate": 0.0}):
        with pytest.raises(UserError, match=f"was trained with {next(iter(other))}"):
            begun.check_fits(task | other)
    shuffled = {"_target_": "artdiff.networks.UNet", "detail_channels": 0, "patch": 1, "channels": [8]}
    with pytest.raises(UserError, match=r"was trained with network.channels None, got \[8\]"):
        begun.check_fits(task | {"network": shuffled})
    with pytest.raises(UserError, match="was trained with network.patch 1, got None"):
        begun.check_fits(task | {"network": {"_target_": "artdiff.networks.UNet"}})
    with pytest.raises(UserError, match=r"was trained with network artdiff.networks.UNet, got artdiff.networks.ViT;"):
        begun.check_fits(task | {"network": VIT})


def test_a_painter_of_version_0_1_has_its_settings_under_their_new_names(tmp_path):
    path = record.unpacked("generation_unet", tmp_path)
    old = torch.load(path, weights_only=True)["hyper_parameters"]["network"]
    assert {"features", "attention", "blocks", "data_std"} <= set(old)
    settings = earlier(path).settings
    assert settings["data_std"] == 0.5
    assert settings["codec"] == {"_target_": "artdiff.diffusion.codec.Identity"}
    assert settings["network"]["cond_dim"] == old["features"]
    assert settings["network"]["attention_resolutions"] == old["attention"]
    assert settings["network"]["num_res_blocks"] == old["blocks"]
    assert "data_std" not in settings["network"]
    task = restore(path).task
    assert isinstance(task, Generation)
    assert isinstance(task.network, UNet)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a checkpoint", "cannot be read as a checkpoint"),
        (b"", "cannot be read as a checkpoint"),
        (b"seed: 0\n", "cannot be read as a checkpoint"),
        ([1], "holds a list, expected a checkpoint"),
        ({"hyper_parameters": {}, "state_dict": {}}, "is not a checkpoint of artdiff.train"),
        ({"unknown.weight": torch.zeros(1)}, "does not fit artdiff.networks.ConvDiffusionModel"),
    ],
)
def test_a_wrong_file_is_reported_in_one_line(tmp_path, content, message):
    path = tmp_path / "wrong.ckpt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=message) as caught:
        restore(path)
    assert "\n" not in str(caught.value)


def saved(path, network, state=None, **more):
    settings = {"network": network, "optimizer": {}, "scheduler": None, **(more or {"ranges": "mended"})}
    task = "Generation" if more else "Reconstruction"
    found = {"hyper_parameters": settings, "state_dict": state or {}, "datamodule_hyper_parameters": DATA}
    torch.save({**found, "artdiff": {"task": task}}, path)
    return path


@pytest.mark.parametrize(
    "network",
    [
        {"_target_": "os.mkdir", "path": "made"},
        {"_target_": "artdiff.networks.conv.nn.functional.torch.os.mkdir", "path": "made"},
        {"_target_": "artdiff.networks.conv.nn.Linear", "in_features": 1, "out_features": 1},
        {"_target_": "artdiff.networks.conv.Tensor"},
        {"_target_": "artdiff.networks.layers.zeroed"},
        {"_target_": "artdiff.networks.nowhere.Thing"},
        {"_target_": "artdiff.cli.command", "job": 1, "config": 1},
        {**NETWORK, "more": {"_target_": "os.mkdir", "path": "made"}},
        {**NETWORK, "more": [{"_target_": "os.mkdir", "path": "made"}]},
        {**NETWORK, "half": "get_", "more": "${oc.create:${oc.decode:'{_tar${.half}: os.mkdir, path: made}'}}"},
        {**NETWORK, "_args_": [1]},
    ],
)
def test_a_checkpoint_cannot_call_what_it_likes(tmp_path, monkeypatch, network):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "hostile.ckpt", network)
    with pytest.raises(UserError, match="names code outside artdiff: pass trust_code=true if you trust this file"):
        restore(path)
    assert not (tmp_path / "made").exists()


OUTSIDE = """
import torch
class Plain(torch.nn.Module):
    def __init__(self, *, classes=0, in_channels=3):
        super().__init__()
        self.layer = torch.nn.Conv2d(in_channels, in_channels, 1)
    def forward(self, noisy, *condition):
        return self.layer(noisy)
class Inverted:
    channels, factor = 3, 1
    def encode(self, image):
        return -image
    def decode(self, latent):
        return -latent
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("elsewhere", None)


PAINTS = {"warmup": 1, "classes": [], "data_std": 0.5, "time_mean": 0.0, "time_std": 1.0, "gate": 0.3}
PAINTS |= {"label_dropout": 0.1, "ema_half_life": 1, "ema_ramp": 1, "codec": {"_target_": "elsewhere.Inverted"}}
VIT = {"_target_": "artdiff.networks.ViT", "image_size": 16, "patches": 4, "width": 64, "depth": 1, "bottleneck": 4}
VIT |= {"cond_dim": 4, "dropout": 0.0}


@pytest.mark.parametrize(
    ("network", "more"),
    [({"_target_": "elsewhere.Plain"}, {}), ({"_target_": "elsewhere.Plain"}, PAINTS), (VIT, PAINTS)],
    ids=["network", "network and codec", "codec"],
)
def test_code_outside_artdiff_is_imported_only_if_it_is_trusted(outside, tmp_path, network, more):
    path = saved(tmp_path / "some.ckpt", network, **more)
    with pytest.raises(UserError, match=r"elsewhere.* names code outside artdiff: pass trust_code=true") as caught:
        restore(path)
    assert "\n" not in str(caught.value)
    assert "elsewhere" not in sys.modules
    with pytest.raises(UserError, match="does not fit"):  # it has no weights; so it was built
        restore(path, trust_code=True)
    assert "elsewhere" in sys.modules


def test_trusted_code_works(outside, tmp_path):
    network = import_module("elsewhere").Plain()
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    path = saved(tmp_path / "some.ckpt", {"_target_": "elsewhere.Plain"}, state)
    task = restore(path, trust_code=True).task
    assert torch.equal(task.network.layer.weight, network.layer.weight)


def test_a_checkpoint_of_a_newer_format_is_one_line(tmp_path):
    path = saved(tmp_path / "new.ckpt", NETWORK)
    found = torch.load(path, weights_only=True)
    found["artdiff"] |= {"format": 2, "version": "9.1"}
    torch.save(found, path)
    for read in (restore, earlier):
        with pytest.raises(UserError, match=r"was written by artdiff 9.1 in a format that .* cannot read: use a newer"):
            read(path)


class Hostile:
    """Its pickle makes a folder when it is read."""

    def __reduce__(self):
        return (os.mkdir, ("made",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Hostile()}, tmp_path / "hostile.ckpt")
    for read in (restore, earlier, lambda path: trained_parts(path, trust_code=True)):
        with pytest.raises(UserError, match="cannot be read as a checkpoint"):
            read(tmp_path / "hostile.ckpt")
    assert not (tmp_path / "made").exists()
