"""The article's network, against an independent implementation."""

import pytest
import torch
import torch.nn.functional as F

from artdiff.networks import ConvDiffusionModel


def reference(state, x):
    """The article's network in evaluation mode, written from its description without modules."""

    def norm(x, name):
        mean, var, weight, bias = (state[f"{name}.2.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        shape = (1, -1, 1, 1)
        return (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * weight.view(shape) + bias.view(shape)

    def encode(x, name):
        x = F.conv2d(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"], padding=1)
        return F.max_pool2d(norm(x.clamp(min=0), name), 2)

    def up(x, name):
        weight, bias = state[f"{name}.0.weight"], state[f"{name}.0.bias"]
        return F.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)

    e1 = encode(x, "enc1")
    e2 = encode(e1, "enc2")
    e3 = encode(e2, "enc3")
    d1 = norm(up(e3, "dec1").clamp(min=0), "dec1") + e2
    d2 = norm(up(d1, "dec2").clamp(min=0), "dec2") + e1
    return 1 / (1 + torch.exp(-up(d2, "dec3")))


def test_it_is_the_articles_network():
    torch.manual_seed(0)
    network = ConvDiffusionModel()
    with torch.no_grad():  # statistics and affine parameters away from their neutral initial values
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(value + 0.1 * torch.rand_like(value))
    x = torch.randn(2, 3, 16, 24)
    torch.testing.assert_close(network.eval()(x), reference(network.state_dict(), x))


def test_it_trains_as_the_articles_network():
    torch.manual_seed(0)
    network, x = ConvDiffusionModel(), torch.randn(2, 3, 16, 16)
    output = network(x)  # in training, BatchNorm takes the batch's own mean and variance
    state = network.state_dict()
    values = x
    for stage in ("enc1", "enc2", "enc3"):
        values = F.conv2d(values, state[f"{stage}.0.weight"], state[f"{stage}.0.bias"], padding=1).clamp(min=0)
        mean, var = values.mean(dim=(0, 2, 3)), values.var(dim=(0, 2, 3))
        torch.testing.assert_close(state[f"{stage}.2.running_mean"], 0.1 * mean)
        torch.testing.assert_close(state[f"{stage}.2.running_var"], 0.9 + 0.1 * var)
        values = F.max_pool2d(F.batch_norm(values, None, None, training=True), 2)
    assert output.shape == x.shape


def test_keys_and_size_are_the_articles():
    network = ConvDiffusionModel()
    assert sum(parameter.numel() for parameter in network.parameters()) == 742_659
    convolution, norm = (
        ("weight", "bias"),
        ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
    )
    expected = [f"{stage}.0.{key}" for stage in ("dec3",) for key in convolution]
    for stage in ("enc1", "enc2", "enc3", "dec1", "dec2"):
        expected += [f"{stage}.0.{key}" for key in convolution] + [f"{stage}.2.{key}" for key in norm]
    assert sorted(network.state_dict()) == sorted(expected)


@pytest.mark.parametrize("size", [(8, 8), (16, 40)])
def test_the_output_has_the_size_of_the_input_and_lies_in_0_to_1(size):
    output = ConvDiffusionModel()(torch.randn(2, 3, *size))
    assert output.shape == (2, 3, *size)
    assert 0 <= output.min() <= output.max() <= 1


def test_every_parameter_gets_a_gradient():
    network = ConvDiffusionModel()
    network(torch.randn(2, 3, 16, 16)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
