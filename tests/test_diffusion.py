"""The path, samplers, guidance and random numbers, tested without training: an analytic denoiser knows the answers."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from artdiff.diffusion import ema, noise, path, samplers
from artdiff.diffusion.conditioning import NO_LABEL, drop_labels
from artdiff.diffusion.guidance import blended, guided
from artdiff.diffusion.noise import NOISE, TIMES, PictureRandom
from artdiff.diffusion.path import Preconditioned

MEAN = torch.tensor([0.4, -0.3])
COVARIANCE = torch.tensor([[0.5, 0.3], [0.3, 0.4]])


def gaussian(noisy, time):
    """The best estimate of pictures (B,2,1,1) from N(MEAN, COVARIANCE), which is linear."""
    mean, covariance = MEAN.to(noisy.dtype), COVARIANCE.to(noisy.dtype)
    of_noisy = time**2 * covariance + (1 - time) ** 2 * torch.eye(2, dtype=noisy.dtype)
    residual = noisy[:, :, 0, 0, None] - time * mean[:, None]
    return (mean[:, None] + time * covariance @ torch.linalg.solve(of_noisy, residual))[..., None]


SOLVERS = ("euler", "heun", "dpm_solver_2m", "dpm_solver_3m")


def last(solver, *args):
    *_, place = samplers.get(solver)(*args)
    return place


def rand(count, dtype=torch.float32):
    return torch.randn(count, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=dtype)


# samplers


@pytest.mark.parametrize(
    ("solver", "steps", "spacing"),
    [
        ("heun", 20, "uniform"),
        ("euler", 300, "uniform"),
        ("heun", 20, "karras"),
        ("dpm_solver_2m", 40, "uniform"),
        ("dpm_solver_3m", 20, "karras"),
    ],
)
def test_the_analytic_denoiser_is_sampled_with_its_mean_and_covariance(solver, steps, spacing):
    painted = last(solver, gaussian, rand(20_000), samplers.times(steps, spacing=spacing)).flatten(1)
    torch.testing.assert_close(painted.mean(0), MEAN, atol=0.02, rtol=0)
    torch.testing.assert_close(painted.T.cov(), COVARIANCE, atol=0.02, rtol=0)


@pytest.fixture(scope="module")
def exact():
    """Where the path leads from some noise by time 0.9, to float64 precision: the last step to 1 is always Euler's."""
    return last("heun", gaussian, rand(50, torch.float64), [0.9 * step / 4096 for step in range(4097)])


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("dpm_solver_2m", 2), ("dpm_solver_3m", 3)])
def test_the_error_falls_with_the_order_of_the_method(exact, solver, order):
    def error(steps):
        times = [0.9 * step / steps for step in range(steps + 1)]
        return (last(solver, gaussian, rand(50, torch.float64), times) - exact).abs().max().item()

    for steps in (32, 64):
        assert error(steps) / error(2 * steps) == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("start", [0.0, 0.4, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_spacings_lead_from_start_to_end_in_as_many_steps(start, steps):
    uniform, karras = (samplers.times(steps, start, spacing) for spacing in ("uniform", "karras"))
    assert len(karras) == len(uniform)
    assert karras[0] == uniform[0]
    assert karras[-1] == 1
    assert karras == sorted(set(karras))


def test_karras_spaces_roots_of_the_ratio_of_noise_to_picture_evenly():
    ratios = [(1 - time) / time for time in samplers.times(10, spacing="karras")[1:-1]]
    roots = [ratio ** (1 / 7) for ratio in ratios]
    gaps = [after - before for before, after in pairwise(roots)]
    assert gaps == pytest.approx([(0.02 ** (1 / 7) - 50 ** (1 / 7)) / 9] * 8)


def test_samplers_compute_in_float32_at_least():
    def half(noisy, time):
        return gaussian(noisy, time).to(torch.bfloat16)

    assert last("heun", half, rand(2).bfloat16(), samplers.times(3)).dtype == torch.float32
    assert last("heun", gaussian, rand(2, torch.float64), samplers.times(3)).dtype == torch.float64


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_last_step_ends_at_the_estimate(solver):
    target = torch.full((3, 2, 1, 1), 0.25)
    torch.testing.assert_close(last(solver, lambda noisy, time: target, rand(3), samplers.times(4)), target)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sampler_declares_its_calls_and_never_asks_at_time_1(solver):
    asked = []
    last(solver, lambda noisy, time: asked.append(time) or noisy, rand(1), samplers.times(10))
    assert len(asked) == samplers.calls(solver, 10) - (solver == "heun")  # whose last step is Euler's
    assert asked[0] == 0
    assert max(asked) < 1


class Still:
    """A sampler from outside the package, which stays where it is."""

    calls_per_step = 0

    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, denoise, noisy, times):
        for _ in times[1:]:
            yield noisy * self.scale


def test_a_sampler_is_found_by_name_by_path_and_as_a_mapping():
    assert type(samplers.get("heun")).__module__ == "artdiff.diffusion.samplers.heun"
    assert torch.equal(last(f"{__name__}.Still", gaussian, rand(2), [0, 1]), rand(2))
    assert torch.equal(last({"_target_": f"{__name__}.Still", "scale": 2.0}, gaussian, rand(2), [0, 1]), 2 * rand(2))


# path


def test_time_0_is_noise_and_time_1_is_the_picture():
    image, some = torch.rand(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
    noisy = path.interpolated(image, some, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(noisy[0], some[0])
    assert torch.equal(noisy[1], image[1])
    torch.testing.assert_close(noisy[2], 0.25 * image[2] + 0.75 * some[2])


def test_training_times_are_logit_normal():
    times = path.sampled_times(torch.tensor([0.0, 1.0, -1.0]), mean=0.6, std=1.2)
    torch.testing.assert_close(torch.logit(times), torch.tensor([0.6, 1.8, -0.6]))


def test_the_weight_turns_the_error_into_one_of_velocity():
    image, some, time = torch.rand(3, 3, 4, 4), torch.randn(3, 3, 4, 4), torch.tensor([0.0, 0.5, 0.9])
    noisy, estimate = path.interpolated(image, some, time), torch.rand(3, 3, 4, 4)
    left = (1 - time)[:, None, None, None]
    velocities = (estimate - noisy) / left, (image - noisy) / left
    of_velocity = (velocities[0] - velocities[1]).square().mean((1, 2, 3))
    torch.testing.assert_close(path.weight(time) * (estimate - image).square().mean((1, 2, 3)), of_velocity)
    assert path.weight(torch.tensor([0.999])) == pytest.approx(path.MIN_DISTANCE**-2)


def test_the_gate_opens_towards_the_picture():
    assert path.gate(torch.tensor([0.0, 0.29, 0.3, 1.0]), opens=0.3).tolist() == [0, 0, 1, 1]


def test_a_preconditioned_network_sees_unit_variance_and_should_answer_with_it():
    std, seen = 0.5, []
    image, some = std * torch.randn(64, 3, 16, 16), torch.randn(64, 3, 16, 16)
    for moment in (0.0, 0.3, 0.8, 0.99):
        time = torch.full((64,), moment)
        noisy = path.interpolated(image, some, time)
        guess = Preconditioned(lambda x, *_: seen.append(x) or torch.zeros_like(x), data_std=std)(noisy, time, None)
        assert seen[-1].std().item() == pytest.approx(1, abs=0.02)
        one = Preconditioned(lambda x, *_: torch.ones_like(x), data_std=std)(noisy, time, None)
        needed = (image - guess) / (one - guess)  # the output that gives the picture
        assert needed.std().item() == pytest.approx(1, abs=0.02)
        slope = (guess * noisy).sum() / noisy.square().sum()  # the best linear estimate
        assert slope.item() == pytest.approx(((image * noisy).sum() / noisy.square().sum()).item(), abs=0.02)


def test_preconditioning_is_in_float32():
    def half(noisy, time, label):
        return noisy.bfloat16()

    noisy, time = torch.randn(2, 3, 4, 4), torch.rand(2)
    assert Preconditioned(half, data_std=0.5)(noisy, time, None).dtype == torch.float32


# labels and guidance


def test_labels_are_dropped_below_a_chance():
    label, chance = torch.tensor([3, 4, 5]), torch.tensor([0.0, 0.09, 0.1])
    assert drop_labels(label, chance, share=0.1).tolist() == [NO_LABEL, NO_LABEL, 5]
    assert torch.equal(drop_labels(label, chance, share=0.0), label)


class Counting:
    """A network whose estimate is its label, and which counts the pictures that it sees."""

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
def test_guidance_leads_away_from_the_null_label_and_costs_twice_where_it_acts(guidance, time, label, looks, estimate):
    network = Counting()
    denoise = guided(network, (torch.full((2,), label),), guidance=guidance, interval=(0.1, 1.0))
    answer = denoise(torch.zeros(2, 3, 4, 4), time)
    assert network.seen == 2 * looks
    assert torch.equal(answer, torch.full((2, 3, 4, 4), float(estimate)))


def test_guidance_does_not_change_pictures_without_a_label():
    denoise = guided(Counting(), (torch.tensor([4, -1]),), guidance=2.0, interval=(0.0, 1.0))
    answer = denoise(torch.zeros(2, 3, 4, 4), 0.5)
    assert answer[:, 0, 0, 0].tolist() == [9, -1]


def test_denoisers_blend():
    blend = blended(lambda noisy, time: noisy, lambda noisy, time: noisy + 1, torch.tensor([0.0, 0.25]))
    assert blend(torch.zeros(2, 3, 2, 2), 0.0)[:, 0, 0, 0].tolist() == [0, 0.25]


# random numbers


def test_the_generator_is_splitmix64():
    """The first outputs for the seed 1234567, as published with the reference implementation."""
    counter = 1234567 + torch.arange(1, 4) * noise._signed(noise.GOLDEN_GAMMA)
    assert noise._mixed(counter).tolist() == [6457827717110365317, 3203168211198807973, -8629252141511181193]
    assert noise._mixed_int(1234567 + noise.GOLDEN_GAMMA) == 6457827717110365317


def test_random_numbers_depend_on_the_seed_and_the_picture_only():
    whole = PictureRandom(3, torch.arange(10, 16))
    part = PictureRandom(3, torch.tensor([15, 11]))
    for stream in (TIMES, NOISE):
        assert torch.equal(part.uniform(stream), whole.uniform(stream)[[5, 1]])
        assert torch.equal(part.normal(stream), whole.normal(stream)[[5, 1]])
        assert torch.equal(part.normal(stream, (3, 5, 5)), whole.normal(stream, (3, 5, 5))[[5, 1]])
    assert torch.equal(whole.normal(NOISE, (4,)), PictureRandom(3, torch.arange(10, 16)).normal(NOISE, (4,)))
    assert not torch.equal(whole.normal(NOISE, (4,)), PictureRandom(4, torch.arange(10, 16)).normal(NOISE, (4,)))


def test_random_numbers_are_distributed_as_they_should_be_and_independent():
    random = PictureRandom(2**32 - 1, torch.arange(20_000))
    uniform, normal, other = random.uniform(TIMES), random.normal(NOISE, (4,)), random.normal(TIMES, (4,))
    assert 0 <= uniform.min() < uniform.max() < 1
    torch.testing.assert_close(torch.histc(uniform, 10, 0, 1), torch.full((10,), 2000.0), atol=150, rtol=0)
    assert normal.mean().item() == pytest.approx(0, abs=0.015)
    assert normal.std().item() == pytest.approx(1, abs=0.01)
    assert (normal**4).mean().item() == pytest.approx(3, abs=0.1)
    together = torch.cat([normal, other, uniform[:, None], normal.roll(1, 0)], dim=1)
    correlations = together.T.corrcoef() - torch.eye(together.shape[1])
    assert correlations.abs().max() < 0.04


def test_noise_to_paint_from_depends_on_its_seed_only():
    some = noise.seeded_noise([3, 4, 3], (3, 8, 8))
    assert torch.equal(some[0], some[2])
    assert torch.equal(some[1], noise.seeded_noise([4], (3, 8, 8))[0])
    assert not torch.equal(some[0], some[1])


def test_noise_between_two_noises_has_their_variance():
    one, other = noise.seeded_noise([1, 2], (3, 64, 64)).split(1)
    shares = torch.tensor([0.0, 0.5, 1.0])
    way = noise.between(one.expand(3, -1, -1, -1), other.expand(3, -1, -1, -1), shares)
    assert torch.equal(way[:1], one)
    assert torch.equal(way[2:], other)
    assert way[1].std().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(noise.between(one, one, torch.tensor([0.3])), one)


def test_strength_says_how_far_to_leave_the_muse():
    muse, some = torch.rand(2, 2, 1, 1), rand(2)
    begun, start = noise.from_muse(muse, some, strength=0.0)
    assert samplers.times(20, start=start) == [1.0]  # there is no step to take
    assert torch.equal(begun, muse)
    begun, start = noise.from_muse(muse, some, strength=1.0)
    assert torch.equal(
        last("heun", gaussian, begun, samplers.times(20, start=start)),
        last("heun", gaussian, some, samplers.times(20)),
    )
    begun, start = noise.from_muse(muse, some, strength=0.25)
    assert samplers.times(20, start=start)[:2] == pytest.approx([0.75, 0.80])
    torch.testing.assert_close(begun, 0.75 * muse + 0.25 * some)


# moving average


def test_the_average_has_its_half_life_and_forgets_the_first_weights_sooner():
    assert ema.share(64, seen=10_000, half_life=64, ramp=0.1) == pytest.approx(0.5)
    assert ema.share(64, seen=64, half_life=1e9, ramp=0.1) == pytest.approx(1 - 0.5**10)
    in_one, in_two = 1 - ema.share(64, seen=10_000, half_life=500, ramp=1), 1.0
    for _ in range(2):
        in_two *= 1 - ema.share(32, seen=10_000, half_life=500, ramp=1)
    assert in_one == pytest.approx(in_two)


def test_weights_are_averaged_and_buffers_copied():
    average, network = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(network.weight, 3.0)
    network.running_mean.fill_(5.0)
    ema.update(average, network, 0.25)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.running_mean.tolist() == [5.0, 5.0]
