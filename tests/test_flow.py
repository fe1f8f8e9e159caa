"""The path between noise and picture, held without training anything: an analytic denoiser knows the answers."""

import pytest
import torch

from artdiff.diffusion import noise, path, samplers
from artdiff.diffusion.guidance import blended, guided

MEAN = torch.tensor([0.4, -0.3])
COVARIANCE = torch.tensor([[0.5, 0.3], [0.3, 0.4]])


def gaussian(noisy, time):
    """The best estimate of pictures (B,2,1,1) from N(MEAN, COVARIANCE): for a Gaussian it is linear."""
    mean, covariance = MEAN.to(noisy.dtype), COVARIANCE.to(noisy.dtype)
    seen = time**2 * covariance + (1 - time) ** 2 * torch.eye(2, dtype=noisy.dtype)  # covariance of what is noisy
    residual = noisy[:, :, 0, 0, None] - time * mean[:, None]
    return (mean[:, None] + time * covariance @ torch.linalg.solve(seen, residual))[..., None]


def last(*args, **kwargs):
    *_, place = samplers.follow(*args, **kwargs)
    return place


def rand(count, dtype=torch.float32):
    return torch.randn(count, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize(("solver", "steps"), [("heun", 20), ("euler", 300)])
def test_the_analytic_denoiser_leads_to_its_mean_and_covariance(solver, steps):
    painted = last(gaussian, rand(20_000), samplers.times(steps), solver=solver).flatten(1)
    torch.testing.assert_close(painted.mean(0), MEAN, atol=0.02, rtol=0)
    torch.testing.assert_close(painted.T.cov(), COVARIANCE, atol=0.02, rtol=0)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_halving_the_steps_divides_the_error_as_the_order_says(solver, order):
    begun, stop = rand(50, torch.float64), 0.9  # the last step to 1 is Euler's in both
    exact = last(gaussian, begun, [stop * step / 4096 for step in range(4097)], solver="heun")

    def error(steps):
        along = [stop * step / steps for step in range(steps + 1)]
        return (last(gaussian, begun, along, solver=solver) - exact).abs().max().item()

    for steps in (32, 64):
        assert error(steps) / error(2 * steps) == pytest.approx(2**order, rel=0.15)


def test_samplers_keep_at_least_float32():
    def half(noisy, time):
        return gaussian(noisy, time).to(torch.bfloat16)

    assert last(half, rand(2).bfloat16(), samplers.times(3), solver="heun").dtype == torch.float32
    assert last(gaussian, rand(2, torch.float64), samplers.times(3), solver="heun").dtype == torch.float64


def test_the_last_step_lands_on_the_estimate():
    target = torch.full((3, 2, 1, 1), 0.25)
    torch.testing.assert_close(last(lambda noisy, time: target, rand(3), samplers.times(4), solver="heun"), target)


@pytest.mark.parametrize(("solver", "calls"), [("euler", 10), ("heun", 19)])
def test_a_step_costs_one_call_or_two(solver, calls):
    counted = []

    def denoise(noisy, time):
        counted.append(time)
        return noisy

    last(denoise, rand(1), samplers.times(10), solver=solver)
    assert len(counted) == calls
    assert counted[0] == 0
    assert max(counted) < 1


def test_time_0_is_noise_and_time_1_the_picture():
    image, some = torch.rand(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
    noisy = path.noised(image, some, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(noisy[0], some[0])
    assert torch.equal(noisy[1], image[1])
    torch.testing.assert_close(noisy[2], 0.25 * image[2] + 0.75 * some[2])


def test_training_times_are_as_asked():
    torch.manual_seed(0)
    drawn = path.draw_times(20_000, mean=0.6, std=1.2)
    assert 0 < drawn.min() < drawn.max() < 1
    logits = torch.logit(drawn.double())
    assert logits.mean().item() == pytest.approx(0.6, abs=0.03)
    assert logits.std().item() == pytest.approx(1.2, abs=0.03)


def test_the_weight_makes_an_error_one_of_velocity():
    image, some, time = torch.rand(3, 3, 4, 4), torch.randn(3, 3, 4, 4), torch.tensor([0.0, 0.5, 0.9])
    noisy, estimate = path.noised(image, some, time), torch.rand(3, 3, 4, 4)
    left = (1 - time)[:, None, None, None]
    velocities = (estimate - noisy) / left, (image - noisy) / left
    of_velocity = (velocities[0] - velocities[1]).square().mean((1, 2, 3))
    torch.testing.assert_close(path.weight(time) * (estimate - image).square().mean((1, 2, 3)), of_velocity)
    assert path.weight(torch.tensor([0.999])) == pytest.approx(path.NEAREST**-2)


def test_the_gate_opens_towards_the_picture():
    assert path.gate(torch.tensor([0.0, 0.29, 0.3, 1.0]), opens=0.3).tolist() == [0, 0, 1, 1]


class Counting:
    """A network whose estimate is its label, and which counts what it sees."""

    seen = 0

    def __call__(self, noisy, time, label):
        self.seen += len(noisy)
        return torch.ones_like(noisy) * label[:, None, None, None]


@pytest.mark.parametrize(
    ("guidance", "time", "label", "looks", "estimate"),
    [
        (1.0, 0.5, 4, 1, 4),  # off
        (2.0, 0.05, 4, 1, 4),  # outside its interval
        (2.0, 0.5, -1, 1, -1),  # nothing to be guided to
        (2.0, 0.5, 4, 2, 9),  # -1 + 2 · (4 + 1)
        (0.0, 0.5, 4, 2, -1),
    ],
)
def test_guidance_moves_away_from_no_label_and_costs_twice_only_where_it_acts(guidance, time, label, looks, estimate):
    network = Counting()
    denoise = guided(network, torch.full((2,), label), guidance=guidance, interval=(0.1, 1.0), null=-1)
    answer = denoise(torch.zeros(2, 3, 4, 4), time)
    assert network.seen == 2 * looks
    assert torch.equal(answer, torch.full((2, 3, 4, 4), float(estimate)))


def test_guidance_leaves_pictures_without_a_label_alone():
    denoise = guided(Counting(), torch.tensor([4, -1]), guidance=2.0, interval=(0.0, 1.0), null=-1)
    answer = denoise(torch.zeros(2, 3, 4, 4), 0.5)
    assert answer[:, 0, 0, 0].tolist() == [9, -1]


def test_a_muse_is_left_as_far_as_strength_says():
    muse, some = torch.rand(2, 2, 1, 1), rand(2)
    begun, start = noise.from_muse(muse, some, strength=0.0)
    assert samplers.times(20, start=start) == [1.0]
    assert torch.equal(begun, muse)  # there is no step to take
    begun, start = noise.from_muse(muse, some, strength=1.0)
    painted = last(gaussian, begun, samplers.times(20, start=start), solver="heun")
    assert torch.equal(painted, last(gaussian, some, samplers.times(20), solver="heun"))
    begun, start = noise.from_muse(muse, some, strength=0.25)
    assert samplers.times(20, start=start)[:2] == pytest.approx([0.75, 0.80])
    torch.testing.assert_close(begun, 0.75 * muse + 0.25 * some)


def test_noise_depends_on_its_seed_alone():
    some = noise.seeded_noise([3, 4, 3], (3, 8, 8))
    assert torch.equal(some[0], some[2])
    assert torch.equal(some[1], noise.seeded_noise([4], (3, 8, 8))[0])
    assert not torch.equal(some[0], some[1])


def test_between_two_noises_lies_noise():
    one, other = noise.seeded_noise([1, 2], (3, 64, 64)).split(1)
    shares = torch.tensor([0.0, 0.5, 1.0])
    way = noise.between(one.expand(3, -1, -1, -1), other.expand(3, -1, -1, -1), shares)
    assert torch.equal(way[:1], one)
    assert torch.equal(way[2:], other)
    assert way[1].std().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(noise.between(one, one, torch.tensor([0.3])), one)


def test_denoisers_blend():
    blend = blended(lambda noisy, time: noisy, lambda noisy, time: noisy + 1, torch.tensor([0.0, 0.25]))
    assert blend(torch.zeros(2, 3, 2, 2), 0.0)[:, 0, 0, 0].tolist() == [0, 0.25]
