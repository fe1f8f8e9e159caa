"""Muon trains matrices as torch's own does and everything else as Adam does."""

import pytest
import torch
from torch import nn

from artdiff.training.muon import Muon, orthogonal

SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.99), "momentum": 0.95, "exclude": ["last"], "fused": True}


def network():
    torch.manual_seed(0)
    return nn.ModuleDict({"first": nn.Linear(24, 40), "last": nn.Linear(40, 3)})


def taught(model, optimizer, *, steps=5):
    """`model` after some steps on a fixed problem."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(64, 24, generator=generator), torch.randn(64, 3, generator=generator)
    for _ in range(steps):
        optimizer.zero_grad()
        (model["last"](model["first"](x).tanh()) - y).square().mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("shape", [(32, 300), (300, 32), (64, 70)])
def test_singular_values_become_about_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    stretched = left @ torch.diag(values * torch.linspace(0.1, 1, len(values))) @ right
    found = torch.linalg.svdvals(orthogonal(stretched).float())
    assert found.min() > 0.6
    assert found.max() < 1.3


def test_of_a_gradient_of_zero_nothing_comes():
    assert torch.equal(orthogonal(torch.zeros(4, 8)), torch.zeros(4, 8, dtype=torch.bfloat16))


def test_a_matrix_is_trained_as_by_torchs_muon():
    ours, theirs = network(), network()
    taught(ours, Muon(ours.named_parameters(), **SETTINGS))
    matrix = torch.optim.Muon(
        [theirs["first"].weight], lr=1e-2, momentum=0.95, weight_decay=0, adjust_lr_fn="match_rms_adamw"
    )
    others = [weight for name, weight in theirs.named_parameters() if name != "first.weight"]
    adam = torch.optim.Adam(others, lr=1e-2, betas=(0.9, 0.99), fused=True)

    class Both:
        def zero_grad(self):
            theirs.zero_grad()

        def step(self):
            matrix.step()
            adam.step()

    taught(theirs, Both())
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        moved = (other - dict(network().named_parameters())[name]).norm()
        assert (mine - other).norm() < 0.03 * moved, name  # theirs normalises in bfloat16


def test_a_convolution_is_trained_as_the_matrix_it_is():
    torch.manual_seed(0)
    weight = torch.randn(8, 4, 3, 3)
    gradient = torch.randn(8, 4, 3, 3)
    conv, matrix = (
        nn.Parameter(weight.to(memory_format=torch.channels_last, copy=True)),
        nn.Parameter(weight.flatten(1).clone()),
    )
    conv.grad, matrix.grad = gradient.clone(), gradient.flatten(1)
    for parameter in (conv, matrix):
        Muon([("weight", parameter)], **SETTINGS).step()
    assert torch.allclose(conv.flatten(1), matrix, atol=1e-4)
    assert (conv.flatten(1) - weight.flatten(1)).abs().max() > 1e-3


def test_excluded_matrices_and_vectors_are_adams():
    model = network()
    optimizer = Muon(model.named_parameters(), **SETTINGS)
    taught(model, optimizer, steps=1)
    kinds = {name: set(optimizer.state[weight]) for name, weight in model.named_parameters()}
    assert kinds.pop("first.weight") == {"momentum_buffer"}
    assert all("exp_avg_sq" in kind for kind in kinds.values())


def test_a_step_with_a_gradient_that_is_not_finite_is_skipped():
    model = network()
    optimizer = Muon(model.named_parameters(), **SETTINGS)
    taught(model, optimizer, steps=1)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, torch.nan)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert all(value.isfinite().all() for state in optimizer.state.values() for value in state.values())


def test_its_state_is_restored():
    whole, half, rest = network(), network(), network()
    taught(whole, Muon(whole.named_parameters(), **SETTINGS), steps=6)
    first = Muon(half.named_parameters(), **SETTINGS)
    taught(half, first, steps=3)
    rest.load_state_dict(half.state_dict())
    second = Muon(rest.named_parameters(), **SETTINGS)
    second.load_state_dict(first.state_dict())
    taught(rest, second, steps=3)
    for mine, other in zip(whole.parameters(), rest.parameters(), strict=True):
        assert torch.equal(mine, other)
