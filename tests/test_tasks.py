from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from artdiff import UserError
from artdiff.checkpoints import earlier, restore
from artdiff.data.datamodule import Batch
from artdiff.evaluation.metrics import ReconstructionScores
from artdiff.losses import HybridLoss, PerceptualLoss
from artdiff.networks import ConvDiffusionModel
from artdiff.tasks import Reconstruction

NETWORK = {"_target_": "artdiff.networks.ConvDiffusionModel"}
DATA = {"image_size": 16, "fit": "squash", "background": "white"}
ADAM = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-3}


def task(ranges="mended", loss=None):
    return Reconstruction(network=NETWORK, optimizer=ADAM, scheduler=None, ranges=ranges, loss=loss)


@pytest.fixture(scope="module")
def loss():
    perceptual = PerceptualLoss(weights="random", layer="relu1_2", relative=False, keep=0)
    return HybridLoss(mse_weight=1, perceptual_weight=1, perceptual=perceptual)


@pytest.fixture
def quiet(monkeypatch):
    """Without a trainer there is nowhere to log to."""
    monkeypatch.setattr(Reconstruction, "log", lambda *args, **kwargs: None)
    monkeypatch.setattr(Reconstruction, "trainer", SimpleNamespace(log_every_n_steps=1))


@pytest.mark.parametrize("ranges", ["published", "mended"])
def test_the_step_compares_what_the_experiment_says(loss, quiet, ranges):
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


def test_one_batch_can_be_overfitted(loss, quiet):
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


def test_scores_are_the_means_of_the_pictures_own():
    target = torch.zeros(2, 3, 16, 16)
    picture = target.clone()
    picture[0] += 0.2  # a tenth of the range: 20 dB
    picture[1] += 0.02  # a hundredth: 40 dB
    scores = ReconstructionScores(prefix="val/")
    scores.update(picture, target)
    result = scores.compute()
    assert result["val/psnr"].item() == pytest.approx(30, abs=1e-3)
    assert 0.9 < result["val/ssim"].item() < 1


def test_scores_are_taken_in_float32_whatever_is_trained_in():
    target = F.interpolate(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), scale_factor=8) * 2 - 1
    picture = (target + 0.02 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)
    plain, fast = ReconstructionScores(prefix=""), ReconstructionScores(prefix="")
    plain.update(picture, target)
    with torch.autocast("cpu", torch.bfloat16):
        fast.update(picture, target)
    assert fast.compute() == plain.compute()


@pytest.fixture
def article_file(tmp_path):
    torch.manual_seed(0)
    torch.save(ConvDiffusionModel().state_dict(), tmp_path / "article.pth")
    return tmp_path / "article.pth"


def test_an_article_state_dict_is_restored(article_file):
    model, transform = restore(article_file)
    assert (model.ranges, transform.size, model.training) == ("published", 128, False)
    for key, value in torch.load(article_file, weights_only=True).items():
        assert torch.equal(model.network.state_dict()[key], value)
    assert restore(article_file, ranges="mended").task.ranges == "mended"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a checkpoint", "cannot be read as a checkpoint"),
        (b"", "cannot be read as a checkpoint"),
        (b"seed: 0\n", "cannot be read as a checkpoint"),
        ([1], "holds a list, expected a checkpoint"),
        ({"hyper_parameters": {}, "state_dict": {}}, "is no checkpoint of artdiff.train's"),
        ({"unknown.weight": torch.zeros(1)}, "does not fit artdiff.networks.ConvDiffusionModel"),
    ],
)
def test_a_wrong_checkpoint_is_one_clear_line(tmp_path, content, message):
    path = tmp_path / "wrong.ckpt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=message) as caught:
        restore(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "network",
    [
        {"_target_": "os.mkdir", "path": "made"},
        {"_target_": "artdiff.networks.conv.nn.functional.torch.os.mkdir", "path": "made"},
        {**NETWORK, "more": {"_target_": "os.mkdir", "path": "made"}},
        {**NETWORK, "more": [{"_target_": "os.mkdir", "path": "made"}]},
        {**NETWORK, "half": "get_", "more": "${oc.create:${oc.decode:'{_tar${.half}: os.mkdir, path: made}'}}"},
        {**NETWORK, "_args_": [1]},
    ],
)
def test_a_checkpoint_cannot_call_what_it_likes(tmp_path, monkeypatch, network):
    monkeypatch.chdir(tmp_path)
    settings = {"network": network, "optimizer": {}, "scheduler": None, "ranges": "mended"}
    found = {
        "hyper_parameters": settings,
        "state_dict": {},
        "datamodule_hyper_parameters": {"image_size": 16, "fit": "squash", "background": "white"},
    }
    torch.save(found, "hostile.ckpt")
    with pytest.raises(UserError, match="expected one of artdiff.networks"):
        restore(tmp_path / "hostile.ckpt")
    assert not (tmp_path / "made").exists()


def test_an_unknown_range_is_refused():
    with pytest.raises(UserError, match="task.ranges must be published or mended, got Mended"):
        task(ranges="Mended")


def test_carrying_on_needs_more_than_weights(article_file):
    with pytest.raises(UserError, match="holds weights alone"):
        earlier(article_file)
