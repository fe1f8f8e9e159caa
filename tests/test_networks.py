"""The denoisers: one contract, every parameter used, sized by their settings."""

import pytest
import torch
import torch.nn.functional as F
from conftest import composed
from hydra.utils import instantiate

from artdiff import UserError
from artdiff.networks.layers import FEW_PLACES, attended
from artdiff.networks.vit import _turned, _turns


def built(name, *overrides, classes=3, size=16):
    cfg = composed(
        "train", "task=generation", f"network={name}", f"data.image_size={size}", "run_dir=unused", *overrides
    )
    torch.manual_seed(0)
    return instantiate(cfg["network"], classes=classes)


def awake(network):
    """With every weight drawn anew: at the start much of a denoiser is zero by design."""
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=(weight[0].numel() if weight.ndim > 1 else 100) ** -0.5)
    return network.eval()


def asked(count=2, size=16):
    some = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, size, size, generator=some), torch.rand(count, generator=some), torch.arange(count) % 3


PATCHED = ("network.patch=2", "network.channels=[32,32,64]", "network.blocks=2", "network.features=32")


@pytest.fixture(params=[("unet",), ("unet", *PATCHED), ("vit",)], ids=["unet", "unet of patches", "vit"])
def network(request):
    return built(*request.param)


def test_a_denoiser_answers_with_pictures_in_float32(network):
    noisy, time, label = asked()
    with torch.autocast("cpu", torch.bfloat16):
        picture = network(noisy, time, label)
    assert picture.shape == noisy.shape
    assert picture.dtype == torch.float32


def test_at_the_start_it_is_the_best_linear_guess(network):
    noisy, _, label = asked()
    at_the_ends = network(noisy, torch.tensor([0.0, 1.0]), label)
    assert torch.equal(at_the_ends[0], torch.zeros_like(noisy[0]))
    torch.testing.assert_close(at_the_ends[1], noisy[1])
    middle = network(noisy, torch.full((2,), 0.5), label)
    torch.testing.assert_close(middle, noisy * (0.5 * 0.25 / (0.25 * 0.25 + 0.25)))


def test_every_parameter_gets_a_gradient(network):
    noisy, time, _ = asked(4)
    awake(network)(noisy, time, torch.tensor([0, 1, 2, -1])).square().sum().backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not without


def test_time_and_label_steer_and_the_null_label_is_every_other_number(network):
    noisy, time, label = asked()
    network = awake(network)
    with torch.no_grad():
        picture = network(noisy, time, label)
        assert not torch.allclose(picture, network(noisy, time, label + 1))
        assert not torch.allclose(picture, network(noisy, time * 0.5, label))
        unknown = [network(noisy, time, torch.full_like(label, number)) for number in (-1, 3, 99)]
    assert not torch.allclose(picture, unknown[0])
    assert torch.equal(unknown[0], unknown[1])
    assert torch.equal(unknown[0], unknown[2])


def test_places_see_each_other_across_the_picture(network):
    noisy, time, label = asked(1)
    changed = noisy.clone()
    changed[..., 0, 0] += 1
    network = awake(network)
    with torch.no_grad():
        difference = network(noisy, time, label) - network(changed, time, label)
    assert difference[..., -1, -1].abs().max() > 0


def test_a_network_without_classes_works(network):
    name = "vit" if "ViT" in type(network).__name__ else "unet"
    noisy, time, _ = asked()
    assert built(name, classes=0)(noisy, time, torch.full((2,), -1)).shape == noisy.shape


@pytest.mark.parametrize(
    ("name", "overrides", "least", "most"),
    [
        ("unet", ("network.channels=[32,64]", "network.features=64"), 0.1, 1),
        ("unet", ("data.image_size=32",), 1, 3),
        ("unet_base", ("data.image_size=128",), 20, 40),
        ("unet_base", ("network.channels=[256,512,768]", "data.image_size=128"), 100, 300),
        ("vit", ("network.width=64", "network.depth=4"), 0.1, 1),
        ("vit", ("data.image_size=32",), 1, 4),
        ("vit", ("network.width=768", "network.depth=16", "data.image_size=128"), 100, 200),
    ],
)
def test_settings_size_a_network_from_under_1_to_over_100_million(name, overrides, least, most):
    with torch.device("meta"):
        millions = sum(weight.numel() for weight in built(name, *overrides).parameters()) / 1e6
    assert least < millions < most


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (
            "unet",
            ("network.channels=[64,64,64,64]", "network.patch=2", "data.image_size=24"),
            "takes sides that are multiples of 16, got",
        ),
        ("unet", ("network.channels=[20,40]",), r"must be multiples of 16, and of 32 for attention, got \[20, 40\]"),
        ("vit", ("network.patches=7",), "network.patches must divide data.image_size=16, got 7"),
        ("vit", ("network.width=100",), "network.width must be a multiple of 64, got 100"),
    ],
)
def test_a_size_that_does_not_fit_is_one_clear_line(name, overrides, message):
    with pytest.raises(Exception, match=message) as caught:
        built(name, *overrides)
    assert isinstance(caught.value.__cause__ or caught.value, UserError)


def test_turning_keeps_lengths_and_depends_on_the_distance_alone():
    turns = _turns(4, 8)  # 16 places in rows of 4
    query, key = torch.randn(8), torch.randn(8)

    def product(one, other):
        return (_turned(query, turns[:, one]) * _turned(key, turns[:, other])).sum()

    torch.testing.assert_close(_turned(query, turns[:, 7]).norm(), query.norm())
    torch.testing.assert_close(product(0, 5), product(10, 15))  # one down, one to the right
    assert not torch.isclose(product(0, 1), product(0, 4))


@pytest.mark.parametrize("places", [FEW_PLACES, FEW_PLACES + 1])
def test_attention_is_the_same_however_it_is_computed(places):
    query, key, value = torch.randn(3, 2, 4, places, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attended(query, key, value), F.scaled_dot_product_attention(query, key, value))
