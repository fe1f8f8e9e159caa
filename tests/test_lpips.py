"""LPIPS is torchmetrics' own, with VGG16's weights from a file."""

import pytest
import torch
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.models import vgg16

from artdiff import UserError
from artdiff.evaluation.lpips import Lpips


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 4, 3, 64, 64, generator=generator) * 2 - 1


@pytest.fixture(scope="module")
def features():
    """VGG16's convolutions with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return vgg16(init_weights=False).features


@pytest.fixture(scope="module")
def weights(features, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(features.state_dict(), path)
    return str(path)


def test_it_is_what_torchmetrics_computes_with_the_downloaded_weights(features, weights, pictures, monkeypatch):
    monkeypatch.setattr("torchmetrics.functional.image.lpips._get_tv_model_features", lambda *_: features)
    theirs, ours = LearnedPerceptualImagePatchSimilarity("vgg"), Lpips(weights)
    for distance in (theirs, ours):
        distance.update(*pictures)
        distance.update(*pictures.flip(1)[:, :1])
    assert ours.compute().item() == pytest.approx(theirs.compute().item(), rel=1e-5)
    assert ours.compute() > 0


def test_equal_pictures_are_at_no_distance(weights, pictures):
    distance = Lpips(weights)
    distance.update(pictures[0], pictures[0])
    assert distance.compute() == 0


def test_a_file_of_the_first_layers_is_too_short(features, tmp_path):
    torch.save(features[:12].state_dict(), tmp_path / "vgg16.pth")
    with pytest.raises(UserError, match="lpips=.*vgg16.pth has no 12.weight, needed for relu5_3"):
        Lpips(str(tmp_path / "vgg16.pth"))
