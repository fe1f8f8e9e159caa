"""The codec's network, its task, and latents that are computed once."""

import pytest
import torch
from conftest import small, train

import artdiff
from artdiff import UserError, cache
from artdiff.checkpoints import restore
from artdiff.networks import Autoencoder
from artdiff.picture_cache import PictureCache

TINY = {"patch": 4, "encoder": [16], "decoder": [16], "num_res_blocks": 1, "latent_channels": 4}


@pytest.mark.parametrize(
    ("changes", "factor", "channels"),
    [({}, 4, 4), ({"encoder": [16, 32], "decoder": [32, 16], "latent_channels": 8}, 8, 8), ({"patch": 2}, 2, 4)],
)
def test_latents_are_smaller_by_the_factor(changes, factor, channels):
    codec = Autoencoder(**TINY | changes)
    image = torch.rand(2, 3, 32, 48) * 2 - 1
    latent = codec.encode(image)
    assert codec.factor == factor
    assert latent.shape == (2, channels, 32 // factor, 48 // factor)
    assert codec.decode(latent).shape == image.shape


def test_latents_have_unit_variance_by_statistics_in_the_weights():
    torch.manual_seed(0)
    codec, image = Autoencoder(**TINY), torch.rand(16, 3, 32, 32) * 2 - 1
    for _ in range(600):
        codec.encode(image)
    latent = codec.eval().encode(image)
    assert latent.mean((0, 2, 3)).abs().max() < 0.02
    assert (latent.std((0, 2, 3)) - 1).abs().max() < 0.02
    assert "standardise.running_var" in codec.state_dict()
    assert torch.allclose(codec.encode(image[:1]), latent[:1], atol=1e-5)  # the batch does not matter any more


def test_nothing_passes_by_the_bottleneck():
    codec = Autoencoder(**TINY).eval()
    one, other = torch.rand(2, 1, 3, 32, 32)
    assert torch.equal(codec.decode(codec.encode(one)), codec(one))
    assert not torch.equal(codec.decode(codec.encode(other)), codec(one))


def test_every_weight_gets_a_gradient():
    codec = Autoencoder(**TINY)
    codec(torch.rand(2, 3, 16, 16)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in codec.parameters())


def test_levels_of_encoder_and_decoder_must_agree():
    with pytest.raises(UserError, match="codec.encoder and codec.decoder need equally many levels"):
        Autoencoder(**TINY | {"encoder": [16, 16]})


SMALL = ("codec=f4", "codec.encoder=[16]", "codec.decoder=[16]", "data.image_size=32", "data.batch_size=8")
CODEC = ("task=autoencoder", "loss.perceptual.weights=random", "loss.perceptual.layer=relu1_1", *SMALL)


def test_a_codec_learns_to_reproduce_pictures(art, tmp_path):
    run = train(
        small(art, tmp_path / "run", *CODEC, "trainer.max_steps=60", "optimizer.lr=3e-3", "scheduler=null",
              "data.train_crop=16", "callbacks.grids.every_n_steps=60")
    )  # fmt: skip
    scores = run.metadata["scores"]
    assert scores["val/psnr"] > 13  # 10 dB is grey
    assert {"val/ssim", "val/perceptual", "val/mse"} <= set(scores)
    assert list((run.folder / "samples").glob("*.png"))
    task = restore(run.last).task
    latent = task.network.encode(torch.rand(4, 3, 32, 32) * 2 - 1)
    assert latent.shape == (4, 4, 8, 8)


def test_a_codecs_run_shows_what_is_left_of_a_picture(art, tmp_path):
    run = train(small(art, tmp_path / "run", *CODEC))
    (painted,) = artdiff.load(run, device="cpu").paint(muse=next(art.rglob("*.jpg")))
    assert painted.picture.size == (32, 32)


def test_noise_on_the_latents_is_a_function_of_the_images_seen(art, tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    train(small(art, whole, *CODEC, "trainer.max_steps=4"))
    train(small(art, part, *CODEC, "trainer.max_steps=3"))
    train(small(art, part, *CODEC, "trainer.max_steps=4", "ckpt=last"))
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (whole, part)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.fixture(scope="module")
def codec(art, tmp_path_factory):
    return train(small(art, tmp_path_factory.mktemp("codec") / "run", *CODEC)).folder


def _painter(art, run, codec, *overrides):
    paint = ("task=generation", "network=unet", "network.channels=[32,32]", "loss=mse", "data.flip=0.5",
             f"codec_from={codec}", f"data.cache_dir={run.parent}/cache", "callbacks.grids=null")  # fmt: skip
    train(small(art, run, *SMALL, *paint, "trainer.max_steps=9", "scheduler=null", *overrides))
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_latents_are_computed_once_and_change_nothing(art, codec, tmp_path, monkeypatch):
    cached = _painter(art, tmp_path / "first", codec)
    encoded = []
    encode = Autoencoder.encode
    monkeypatch.setattr(Autoencoder, "encode", lambda self, image: encoded.append(len(image)) or encode(self, image))
    again = _painter(art, tmp_path / "second", codec)
    assert all(torch.equal(cached[name], again[name]) for name in cached)
    seen_before = sum(encoded)
    monkeypatch.setattr(PictureCache, "_open", lambda self, like: None)
    without = _painter(art, tmp_path / "third", codec)
    assert all(torch.equal(cached[name], without[name]) for name in cached)
    assert sum(encoded) - seen_before > 3 * seen_before  # the first batch, and the gauge's training pictures, each time
    (kept,) = [one for one in cache.kept(tmp_path / "cache") if one.what == "latents of pictures"]
    assert cache.remove(kept)


def test_crops_have_no_latents_to_keep(art, codec, tmp_path):
    _painter(art, tmp_path / "run", codec, "data.train_crop=16", "trainer.max_steps=2")
    assert not (tmp_path / "cache/latents").exists()
