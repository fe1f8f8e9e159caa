"""The objective without a trainer, and gradients accumulated over several batches with one."""

import csv

import pytest
import torch
from conftest import small, train
from torch import nn

from artdiff.data.loader import Batch
from artdiff.diffusion.codec import Identity
from artdiff.diffusion.noise import PictureRandom
from artdiff.diffusion.objective import Objective
from artdiff.images import signed_to_imagenet
from artdiff.losses import HybridLoss, Losses, PerceptualLoss, Target

MSE = HybridLoss(mse_weight=1, perceptual_weight=0, perceptual=None)


def pictures(count=8, start=0):
    image = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Batch(image[start : start + count], torch.arange(start, start + count) % 2)


def objective(**changed):
    settings = {"codec": Identity(), "time_mean": 0.0, "time_std": 1.0, "gate": 0.3, "label_dropout": 0.1}
    return Objective(**settings | changed)


class Shrink:
    """A denoiser that remembers what it was asked."""

    def __init__(self):
        self.weight = torch.tensor(0.5, requires_grad=True)
        self.asked = []

    def __call__(self, noisy, time, label):
        self.asked.append((noisy, time, label))
        return self.weight * noisy


def numbers(count, start=0):
    return PictureRandom(0, torch.arange(start, start + count))


def test_the_loss_is_weighted_and_gated_by_time():
    perceptual = PerceptualLoss(weights="random", layer="relu1_2", relative=True, keep=0)
    loss = HybridLoss(mse_weight=1, perceptual_weight=0.5, perceptual=perceptual)
    network, batch = Shrink(), pictures()
    found = objective()(network, batch, numbers(8), loss)
    ((noisy, time, _),) = network.asked
    assert torch.equal(time, found.time)
    assert ((time < 0.3).any(), (time >= 0.3).any()) == (True, True)
    image, denoised = signed_to_imagenet(batch.image), signed_to_imagenet(0.5 * noisy)
    weighted = (denoised - image).square().mean((1, 2, 3)) / (1 - time).clamp(min=0.05) ** 2
    features = perceptual(denoised, Target(image))
    torch.testing.assert_close(found.loss, weighted.mean() + 0.5 * features[time >= 0.3].mean())
    assert set(found.terms) == {"mse", "weighted_mse", "perceptual"}
    torch.testing.assert_close(found.terms["weighted_mse"], weighted)
    torch.testing.assert_close(found.terms["perceptual"], features)
    torch.testing.assert_close(found.terms["mse"], (0.5 * noisy - batch.image).square().mean((1, 2, 3)))
    noise = (noisy - time[:, None, None, None] * batch.image) / (1 - time)[:, None, None, None]
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    found.loss.backward()
    assert network.weight.grad != 0


@pytest.mark.parametrize(("dropout", "share"), [(0.0, 0), (0.3, 0.3), (1.0, 1)])
def test_labels_are_dropped_as_often_as_asked(dropout, share):
    network, batch = Shrink(), pictures()
    many = Batch(batch.image[:1].expand(512, -1, -1, -1), torch.ones(512, dtype=torch.long))
    objective(label_dropout=dropout)(network, many, numbers(512), MSE)
    assert (network.asked[0][2] == -1).float().mean().item() == pytest.approx(share, abs=0.06)


def test_parts_of_a_batch_draw_what_the_whole_batch_draws():
    whole, parts = Shrink(), Shrink()
    objective()(whole, pictures(8), numbers(8), MSE)
    for start in (0, 4):
        objective()(parts, pictures(4, start), numbers(4, start), MSE)
    for place, asked in enumerate(whole.asked[0]):
        assert torch.equal(asked, torch.cat([part[place] for part in parts.asked]))
    assert not torch.equal(parts.asked[0][1], parts.asked[1][1])  # two batches never draw the same times


def test_validation_keeps_labels_and_takes_the_times_it_is_given():
    network, batch, time = Shrink(), pictures(4), torch.tensor([0.0, 0.5, 0.9, 1.0])
    found = objective(label_dropout=1.0).at(network, batch, time=time, noise=torch.zeros(4, 3, 16, 16), loss=MSE)
    ((noisy, asked_time, label),) = network.asked
    assert torch.equal(label, batch.label)
    assert torch.equal(asked_time, time)
    torch.testing.assert_close(noisy, time[:, None, None, None] * batch.image)
    assert found.terms["mse"].shape == (4,)


class Halved:
    """A codec of a single channel at half the resolution."""

    channels, factor = 1, 2

    def encode(self, image):
        return nn.functional.avg_pool2d(image.mean(1, keepdim=True), 2)

    def decode(self, latent):
        return nn.functional.interpolate(latent, scale_factor=2.0).expand(-1, 3, -1, -1)


def test_a_codec_stands_between_the_pictures_and_the_network():
    network = Shrink()
    found = objective(codec=Halved())(network, pictures(4), numbers(4), MSE)
    assert network.asked[0][0].shape == (4, 1, 8, 8)
    found.loss.backward()
    assert network.weight.grad.isfinite()


# accumulation


class Copy(nn.Module):
    """A network without batch statistics that reconstructs; a user's own, from outside the package."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, image):
        return self.layers(image).sigmoid()


class Absolute:
    """A loss from outside the package."""

    def __call__(self, output, target, *, weight=None, gate=None):
        error = (output - target.image).abs().mean(dim=(1, 2, 3))
        return Losses(error.mean(), {"absolute": error})


STEADY = ("+optimizer.eps=1e-2", "scheduler=null")  # Adam would amplify rounding
TINY = ("network=unet", "network.channels=[16,32]", "network.cond_dim=16", "data.image_size=16")
PAINTER = ("task=generation", *TINY, "task.warmup=3", "task.ema_ramp=10", "trainer.gradient_clip_val=3.0")
COPY = f"network._target_={__name__}.Copy"
OWN_LOSS = (f"loss._target_={__name__}.Absolute", "~loss.mse_weight", "~loss.perceptual_weight", "~loss.perceptual")
KINDS = {
    "painter": (*PAINTER, "loss=mse"),
    "hybrid": ("loss=hybrid_random", "loss.perceptual.layer=relu1_2", COPY),
    "loss of one's own": (*OWN_LOSS, COPY),
}
QUICK = ("trainer.precision=32-true", "trainer.max_steps=7", "trainer.log_every_n_steps=1", "logger=csv")
NO_GRIDS = ("callbacks.grids=null", "callbacks.best=null", "trainer.limit_val_batches=0")


def trained(art, run, *words):
    train(small(art, run, *QUICK, *NO_GRIDS, *STEADY, *words))
    with (run / "csv/metrics.csv").open() as stream:
        losses = [float(line["train/loss"]) for line in csv.DictReader(stream) if line["train/loss"]]
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True), losses


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_accumulated_batches_equal_one_large_batch(art, tmp_path, kind):
    """Over an epoch and a half: its last step has fewer batches, and a smaller one."""
    whole, whole_losses = trained(art, tmp_path / "whole", "data.batch_size=8", *kind)
    parts, losses = trained(art, tmp_path / "parts", "data.batch_size=4", "+trainer.accumulate_grad_batches=2", *kind)
    assert parts["global_step"] == whole["global_step"] == 7
    assert parts["artdiff"] == whole["artdiff"]
    assert losses == pytest.approx(whole_losses, rel=1e-4)
    assert len({round(loss, 6) for loss in losses}) == 7
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(parts["state_dict"][name], value, atol=2e-5, rtol=1e-4, msg=name)
