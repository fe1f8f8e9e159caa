"""The hybrid loss: its terms, its weights for VGG16, and its messages."""

import logging

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VGG16_Weights, vgg16

from artdiff import UserError
from artdiff.losses import HybridLoss, PerceptualLoss, Target
from artdiff.losses.perceptual import CPU_PIXELS
from artdiff.losses.weights import LAYERS


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(1)
    return vgg16(weights=None, init_weights=False).features[:16].eval()


@pytest.fixture
def weights(vgg, tmp_path):
    path = tmp_path / "vgg.pth"
    torch.save(vgg.state_dict(), path)
    return path


def _layer(perceptual):
    return [parameter.clone() for parameter in perceptual.features.parameters()]


def test_the_hybrid_is_the_articles_loss(vgg, weights):
    output, target = torch.rand(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    perceptual = PerceptualLoss(weights=str(weights), layer="relu3_3", relative=False, keep=0)
    loss, terms = HybridLoss(mse_weight=1, perceptual_weight=1, perceptual=perceptual)(output, Target(target))
    mse = ((output - target) ** 2).mean()
    features = ((vgg(output) - vgg(target)) ** 2).mean()
    torch.testing.assert_close(terms["mse"].mean(), mse)
    torch.testing.assert_close(terms["perceptual"].mean(), features)
    torch.testing.assert_close(loss, mse + features)


def test_parts_of_a_batch_on_a_cpu_give_the_loss_of_the_whole():
    perceptual = PerceptualLoss(weights="random", layer="relu1_1", relative=False, keep=0)
    output = torch.rand(9, 3, 128, 128, requires_grad=True)  # a part of eight and one of one
    target = torch.rand_like(output)
    assert CPU_PIXELS < 9 * 128 * 128
    whole = F.mse_loss(perceptual.features(output), perceptual.features(target))
    parts = perceptual(output, Target(target)).mean()
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(*(torch.autograd.grad(loss, output)[0] for loss in (parts, whole)))


def test_weights_scale_the_terms():
    output, target = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    perceptual = PerceptualLoss(weights="random", layer="relu1_2", relative=False, keep=0)
    loss, terms = HybridLoss(mse_weight=3, perceptual_weight=0.5, perceptual=perceptual)(output, Target(target))
    torch.testing.assert_close(loss, (3 * terms["mse"] + 0.5 * terms["perceptual"]).mean())
    loss, terms = HybridLoss(mse_weight=3, perceptual_weight=0, perceptual=None)(output, Target(target))
    assert list(terms) == ["mse"]
    torch.testing.assert_close(loss, 3 * F.mse_loss(output, target))


def test_each_picture_has_its_weight_and_gate():
    output, target = torch.rand(3, 3, 32, 32), torch.rand(3, 3, 32, 32)
    perceptual = PerceptualLoss(weights="random", layer="relu1_2", relative=False, keep=0)
    hybrid = HybridLoss(mse_weight=3, perceptual_weight=0.5, perceptual=perceptual)
    weight, gate = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 1.0, 1.0])
    loss, terms = hybrid(output, Target(target), weight=weight, gate=gate)
    torch.testing.assert_close(terms["weighted_mse"], weight * ((output - target) ** 2).mean((1, 2, 3)))
    torch.testing.assert_close(loss, 3 * terms["weighted_mse"].mean() + 0.5 * terms["perceptual"][1:].mean())
    closed, _ = hybrid(output, Target(target), weight=weight, gate=torch.zeros(3))
    torch.testing.assert_close(closed, 3 * terms["weighted_mse"].mean())


def test_the_relative_loss_does_not_depend_on_the_scale_of_the_weights():
    output, target = torch.rand(3, 3, 32, 32), Target(torch.rand(3, 3, 32, 32))
    plain, relative = (
        PerceptualLoss(weights="random", layer="relu1_2", relative=word, keep=0) for word in (False, True)
    )
    wanted = plain.features(target.image).square().mean()
    torch.testing.assert_close(relative(output, target), plain(output, target) / wanted)
    with torch.no_grad():
        before = relative(output, target)
        for perceptual in (plain, relative):
            perceptual.features[2].weight *= 3
            perceptual.features[2].bias *= 3
    torch.testing.assert_close(relative(output, target), before)
    torch.testing.assert_close(plain(output, target), 9 * before * wanted)


def test_gradients_reach_the_output_only():
    perceptual = PerceptualLoss(weights="random", layer="relu1_2", relative=False, keep=0)
    output, target = torch.rand(2, 1, 3, 16, 16).requires_grad_().unbind()
    loss = perceptual(output, Target(target))
    to_output, to_target = torch.autograd.grad(loss, (output, target), allow_unused=True)
    assert to_output.abs().sum() > 0
    assert to_target is None
    assert not any(parameter.requires_grad for parameter in perceptual.features.parameters())
    assert not any(module.training for module in perceptual.features.modules())


def test_layers_are_named_as_in_the_paper():
    features, block, convolution = vgg16(weights=None, init_weights=False).features, 1, 0
    for index, module in enumerate(features):
        if isinstance(module, nn.MaxPool2d):
            block, convolution = block + 1, 0
        elif isinstance(module, nn.ReLU):
            convolution += 1
            assert LAYERS[f"relu{block}_{convolution}"] == index + 1
    assert len(LAYERS) == 13
    assert LAYERS["relu3_3"] == 16


@pytest.mark.parametrize("prefix", ["", "features."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_local_file_is_loaded(vgg, tmp_path, prefix, suffix):
    path = tmp_path / f"vgg{suffix}"
    state = {f"{prefix}{key}": value for key, value in vgg.state_dict().items()}
    state["classifier.0.weight"] = torch.zeros(1)  # a whole VGG16 holds more than is needed
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    perceptual = PerceptualLoss(weights=str(path), layer="relu2_1", relative=False, keep=0)
    assert perceptual.source.startswith(path.name)
    for got, wanted in zip(_layer(perceptual), vgg[: LAYERS["relu2_1"]].parameters(), strict=True):
        assert torch.equal(got, wanted)


def test_a_file_that_does_not_reach_the_layer_says_how_far_it_goes(vgg, tmp_path):
    torch.save(vgg[: LAYERS["relu3_1"]].state_dict(), tmp_path / "short.pth")
    with pytest.raises(UserError, match="set loss.perceptual.layer=relu3_1"):
        PerceptualLoss(weights=str(tmp_path / "short.pth"), layer="relu3_3", relative=False, keep=0)
    assert PerceptualLoss(weights=str(tmp_path / "short.pth"), layer="relu3_1", relative=False, keep=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"0.weight": torch.zeros(8, 3, 3, 3), "0.bias": torch.zeros(8)}, "is not VGG16"),
        ({"some.other": torch.zeros(1)}, "holds no VGG16 layers"),
        ([1, 2], "no state_dict of tensors"),
        (b"not a torch file", "cannot be read as weights"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, content, message):
    path = tmp_path / "wrong.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=message) as caught:
        PerceptualLoss(weights=str(path), layer="relu1_1", relative=False, keep=0)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_layer_names_the_known_ones():
    with pytest.raises(UserError, match="relu1_1, .*relu5_3, got conv3"):
        PerceptualLoss(weights="random", layer="conv3", relative=False, keep=0)


def test_random_features_are_the_same_each_time():
    torch.manual_seed(1)
    one = _layer(PerceptualLoss(weights="random", layer="relu2_2", relative=False, keep=0))
    torch.manual_seed(2)
    other = _layer(PerceptualLoss(weights="random", layer="relu2_2", relative=False, keep=0))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("weights", ["imagenet", "auto"])
def test_imagenet_weights_come_from_torchvisions_cache(vgg, tmp_path, monkeypatch, weights):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub/checkpoints" / VGG16_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    torch.save({f"features.{key}": value for key, value in vgg.state_dict().items()}, cached)
    perceptual = PerceptualLoss(weights=weights, layer="relu3_3", relative=False, keep=0)
    assert (perceptual.source, perceptual.fallback) == ("imagenet", False)
    assert torch.equal(perceptual.features[0].weight, vgg[0].weight)


@pytest.fixture
def no_download(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(VGG16_Weights.IMAGENET1K_V1.value, "url", f"file://{tmp_path}/nowhere/vgg16-00000000.pth")


def test_imagenet_that_cannot_be_had_names_the_ways_out(no_download):
    with pytest.raises(UserError) as caught:
        PerceptualLoss(weights="imagenet", layer="relu3_3", relative=False, keep=0)
    message = str(caught.value)
    assert "\n" not in message
    assert all(way in message for way in ("weights=FILE", "=random", "hub/checkpoints"))


def test_auto_falls_back_with_a_warning(no_download, caplog):
    with caplog.at_level(logging.WARNING):
        perceptual = PerceptualLoss(weights="auto", layer="relu1_1", relative=False, keep=0)
        assert "RANDOM" in caplog.text
        assert perceptual.fallback
        assert perceptual.source.startswith("random")
        caplog.clear()
        perceptual.warn_of_fallback()
        assert "RANDOM" in caplog.text
        caplog.clear()
        PerceptualLoss(weights="random", layer="relu1_1", relative=False, keep=0).warn_of_fallback()
        assert not caplog.text
