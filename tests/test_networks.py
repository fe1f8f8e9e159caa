"""The denoisers: one contract, every parameter used, sized by their settings."""

import pytest
import torch
import torch.nn.functional as F
from conftest import composed
from hydra.utils import instantiate

from artdiff import UserError
from artdiff.diffusion.path import Preconditioned
from artdiff.networks.layers import FEW_TOKENS, attention
from artdiff.networks.vit import rotary_angles, rotated


def built(name, *overrides, classes=3, size=16, in_channels=3):
    cfg = composed(
        "train", "task=generation", f"network={name}", f"data.image_size={size}", "run_dir=unused", *overrides
    )
    torch.manual_seed(0)
    return instantiate(cfg["network"], classes=classes, in_channels=in_channels)


def awake(network):
    """With random weights throughout: at first many of a denoiser's are zero by design."""
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=(weight[0].numel() if weight.ndim > 1 else 100) ** -0.5)
    return network.eval()


def asked(count=2, size=16):
    some = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, size, size, generator=some), torch.rand(count, generator=some), torch.arange(count) % 3


PATCHED = ("network.patch=2", "network.channels=[32,32,64]", "network.num_res_blocks=2", "network.cond_dim=32")


DETAILED = (*PATCHED, "network.detail_channels=8")
KINDS = {
    **{"unet": ("unet",), "unet of patches": ("unet", *PATCHED), "unet with detail": ("unet", *DETAILED)},
    "vit": ("vit",),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def network(request):
    return built(*request.param)


def test_a_denoiser_answers_with_pictures_in_float32(network):
    noisy, time, label = asked()
    with torch.autocast("cpu", torch.bfloat16):
        picture = Preconditioned(network, data_std=0.5)(noisy, time, label)
    assert picture.shape == noisy.shape
    assert picture.dtype == torch.float32


def test_an_untrained_denoiser_makes_the_best_linear_estimate(network):
    noisy, _, label = asked()
    denoise = Preconditioned(network, data_std=0.5)
    at_the_ends = denoise(noisy, torch.tensor([0.0, 1.0]), label)
    assert torch.equal(at_the_ends[0], torch.zeros_like(noisy[0]))
    torch.testing.assert_close(at_the_ends[1], noisy[1])
    middle = denoise(noisy, torch.full((2,), 0.5), label)
    torch.testing.assert_close(middle, noisy * (0.5 * 0.25 / (0.25 * 0.25 + 0.25)))


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_any_number_of_channels_can_be_denoised(words):
    _, time, label = asked()
    latent = torch.randn(2, 5, 16, 16)
    output = awake(built(*words, in_channels=5))(latent, time, label)
    assert output.shape == latent.shape
    assert output.std() > 0


def test_every_parameter_gets_a_gradient(network):
    noisy, time, _ = asked(4)
    awake(network)(noisy, time, torch.tensor([0, 1, 2, -1])).square().sum().backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not without


def test_time_and_label_matter_and_any_other_label_is_the_null_label(network):
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


def test_attention_reaches_across_the_picture(network):
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
        ("unet", ("network.channels=[32,64]", "network.cond_dim=64"), 0.1, 1),
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
            r"channels=\[64, 64, 64, 64\] and patch=2 of a U-Net need width and height in multiples of 16, got",
        ),
        (
            "unet",
            ("network.channels=[20,40]",),
            r"of 16, and of 32 at levels with attention .*attention_resolutions=\[8\] .*, got \[20, 40\]",
        ),
        ("vit", ("network.patches=7",), "network.patches must divide data.image_size=16, got 7"),
        ("vit", ("network.width=100",), "network.width must be a multiple of 64, got 100"),
    ],
)
def test_sizes_that_do_not_fit_are_reported_in_one_line(name, overrides, message):
    with pytest.raises(Exception, match=message) as caught:
        built(name, *overrides)
    error = caught.value.__cause__ or caught.value
    assert isinstance(error, UserError)
    assert "\n" not in str(error)


def test_a_refiner_that_does_not_fit_is_not_called_the_network():
    with pytest.raises(Exception, match="channels of a U-Net must be multiples of 16") as caught:
        built("unet", "network.channels=[20,40]")
    assert "network." not in str(caught.value.__cause__ or caught.value)


def test_rotary_positions_keep_lengths_and_depend_on_the_distance_only():
    turns = rotary_angles(4, 8)  # 16 patches, 4 along a side
    query, key = torch.randn(8), torch.randn(8)

    def product(one, other):
        return (rotated(query, turns[:, one]) * rotated(key, turns[:, other])).sum()

    torch.testing.assert_close(rotated(query, turns[:, 7]).norm(), query.norm())
    torch.testing.assert_close(product(0, 5), product(10, 15))  # one down, one to the right
    assert not torch.isclose(product(0, 1), product(0, 4))


@pytest.mark.parametrize("tokens", [FEW_TOKENS, FEW_TOKENS + 1])
def test_explicit_and_fused_attention_agree(tokens):
    query, key, value = torch.randn(3, 2, 4, tokens, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attention(query, key, value), F.scaled_dot_product_attention(query, key, value))
