"""Ranges, grids and sheets of pictures, and what a saved picture says about itself."""

import numpy as np
import pytest
import torch
from PIL import Image

from artdiff import images


def test_all_byte_values_survive_the_round_trip():
    every = torch.arange(256, dtype=torch.uint8)
    signed = images.to_signed(every)
    assert (signed.min(), signed.max()) == (-1, 1)
    assert torch.equal(images.to_uint8(signed), every)


def test_values_out_of_range_are_clamped():
    assert images.to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_unit_and_signed_are_inverse():
    unit = torch.rand(2, 3, 4, 4)
    assert images.signed_to_unit(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [0, 0.5, 1]
    torch.testing.assert_close(images.signed_to_unit(images.unit_to_signed(unit)), unit)


def test_imagenet_statistics_are_the_published_ones():
    black, white = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    expected = [(1 - mean) / std for mean, std in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
    assert images.imagenet_normalise(white).flatten().tolist() == pytest.approx(expected)
    assert images.imagenet_normalise(black).min() == pytest.approx(-0.485 / 0.229)
    torch.testing.assert_close(images.imagenet_denormalise(images.imagenet_normalise(white)), white)


def test_normalising_works_in_training_after_inference_mode():
    images._imagenet.cache_clear()
    with torch.inference_mode():
        images.imagenet_normalise(torch.rand(1, 3, 2, 2))
    image = torch.rand(1, 3, 2, 2, requires_grad=True)
    images.imagenet_normalise(image).sum().backward()
    assert image.grad is not None


def test_padding_repeats_the_edge_and_crops_back():
    image = torch.rand(1, 3, 13, 16)
    padded = images.pad_to_multiple(image, 8)
    assert padded.shape == (1, 3, 16, 16)
    assert torch.equal(padded[..., :13, :16], image)
    assert torch.equal(padded[..., 15, :], image[..., 12, :])


def test_a_grid_stacks_its_lines_and_shrinks():
    top, bottom = torch.full((4, 3, 32, 16), -1.0), torch.full((4, 3, 32, 16), 1.0)
    grid = images.grid([top, bottom], max_side=16)
    assert grid.shape == (3, 2 * 16, 4 * 8)
    assert (grid[:, :16].max(), grid[:, 16:].min()) == (-1, 1)
    assert images.grid([top, bottom], max_side=64).shape == (3, 64, 64)


def test_pillow_round_trip():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = images.to_pillow(images.from_pillow(Image.fromarray(pixels)))
    assert np.array_equal(np.asarray(picture), pixels)
