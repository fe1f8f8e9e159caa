"""The tasks without a trainer: what a reconstruction compares and shows, and its scores."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from artdiff import UserError
from artdiff.data.loader import Batch
from artdiff.losses import HybridLoss, Losses, PerceptualLoss
from artdiff.ranks import Share
from artdiff.tasks import Reconstruction
from artdiff.tasks.base import Step
from artdiff.tasks.metrics import ReconstructionScores, TimeBins

NETWORK = {"_target_": "artdiff.networks.ConvDiffusionModel"}
ADAM = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-3}


def task(ranges="mended", loss=None):
    return Reconstruction(network=NETWORK, optimizer=ADAM, scheduler=None, ranges=ranges, loss=loss)


@pytest.fixture(scope="module")
def loss():
    perceptual = PerceptualLoss(weights="random", layer="relu1_2", relative=False, keep=0)
    return HybridLoss(mse_weight=1, perceptual_weight=1, perceptual=perceptual)


@pytest.fixture
def no_trainer(monkeypatch):
    monkeypatch.setattr(Reconstruction, "trainer", SimpleNamespace(log_every_n_steps=1, world_size=1))


@pytest.mark.parametrize("ranges", ["published", "mended"])
def test_the_step_compares_what_the_experiment_says(loss, no_trainer, ranges):
    model, image = task(ranges, loss), torch.rand(2, 3, 16, 16) * 2 - 1
    step = model.training_step(Batch(image, torch.zeros(2)), 0)
    mean = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
    target = ((image + 1) / 2 - mean) / std
    output = model.network(target)
    compared = output if ranges == "published" else (output - mean) / std
    features = loss.perceptual.features
    torch.testing.assert_close(step, F.mse_loss(compared, target) + F.mse_loss(features(compared), features(target)))
    shown = output * std + mean if ranges == "published" else output
    torch.testing.assert_close(model(image), (shown * 2 - 1).clamp(-1, 1))


def test_one_batch_can_be_overfitted(loss, no_trainer):
    torch.manual_seed(0)
    model, image = task(loss=loss), torch.rand(2, 3, 16, 16) * 2 - 1
    optimizer = model.configure_optimizers()
    losses = []
    for _ in range(150):
        step = model.training_step(Batch(image, torch.zeros(2)), 0)
        optimizer.zero_grad()
        step.backward()
        optimizer.step()
        losses.append(step.item())
    assert losses[-1] < 0.1 * losses[0]


def test_vgg_is_neither_saved_nor_trained(loss):
    model = task(loss=loss)
    assert all(key.startswith("network.") for key in model.state_dict())
    assert sum(parameter.numel() for parameter in model.parameters()) == 742_659


def test_an_unknown_range_is_refused():
    with pytest.raises(UserError, match="task.ranges must be published or mended, got Mended"):
        task(ranges="Mended")


def test_a_step_averages_its_batches_by_their_size():
    step = Step()
    for count, value in ((4, 1.0), (4, 2.0), (2, 5.0)):
        term = torch.full((count,), value)
        factor = step.add(Losses(term.mean(), {"mse": term}), Share(count, count), world=1, keep_terms=True) / value
        assert factor == count / 4
    assert {name: mean.item() for name, mean in step.means().items()} == pytest.approx({"loss": 2.2, "mse": 2.2})
    assert step.correction(4) == pytest.approx(4 * 4 / 10)  # Lightning has divided by 4
    assert step.is_finite
    step.add(Losses(torch.tensor(torch.nan), {}), Share(4, 4), world=1, keep_terms=False)
    assert not step.is_finite


def test_scores_are_averaged_over_pictures():
    target = torch.zeros(2, 3, 16, 16)
    picture = target.clone()
    picture[0] += 0.2  # a tenth of the range: 20 dB
    picture[1] += 0.02  # a hundredth: 40 dB
    scores = ReconstructionScores(prefix="val/")
    scores.update(picture, target)
    result = scores.compute()
    assert result["val/psnr"].item() == pytest.approx(30, abs=1e-3)
    assert 0.9 < result["val/ssim"].item() < 1


def test_scores_are_computed_in_float32_under_autocast():
    target = F.interpolate(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), scale_factor=8) * 2 - 1
    picture = (target + 0.02 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)
    plain, fast = ReconstructionScores(prefix=""), ReconstructionScores(prefix="")
    plain.update(picture, target)
    with torch.autocast("cpu", torch.bfloat16):
        fast.update(picture, target)
    assert fast.compute() == plain.compute()


def test_each_quarter_of_time_has_its_own_means():
    bins = TimeBins(prefix="val")
    for _ in range(2):
        bins.update(torch.tensor([0.0, 0.2, 1.0]), {"mse": torch.tensor([1.0, 3.0, 5.0])})
        assert {name: value.item() for name, value in bins.compute().items()} == {
            "val_time/mse_0.00-0.25": 2,
            "val_time/mse_0.75-1.00": 5,
        }
        bins.reset()
