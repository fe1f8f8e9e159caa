"""A painter that learns to paint in few steps from another one."""

import json

import pytest
import torch
from conftest import composed, generate, small, train
from PIL import Image
from test_painting import SETTINGS

import artdiff
from artdiff import UserError, checkpoints
from artdiff.diffusion import samplers
from artdiff.diffusion.long_steps import long_step
from artdiff.diffusion.noise import seeded_noise
from artdiff.export import export
from artdiff.ingest import sample_art
from artdiff.settings.sharing import ExportSettings
from artdiff.tasks import Distillation

pytestmark = pytest.mark.slow

TINY = ("network=unet", "network.channels=[32,32]", "network.cond_dim=16", "scheduler=null", "data.image_size=16")
QUICK = ("optimizer.lr=0.005", "task.warmup=0", "trainer.precision=32-true", "data.batch_size=16",
         "callbacks.grids.every_n_steps=1000", "task.ema_ramp=0.01", "callbacks.decay.share=0")  # fmt: skip
FEW = ("experiment=few_steps", "data.image_size=16", "trainer.check_val_every_n_epoch=10", *QUICK)


@pytest.fixture(scope="module")
def teacher(art, tmp_path_factory):
    """A painter that has learned the colours of the sample art."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    return train(small(art, folder, "experiment=paint32", *TINY, *QUICK, "trainer.max_steps=80")).folder


def distilled(art, folder, teacher, *more):
    return train(small(art, folder, *FEW, f"init={teacher}", "trainer.max_steps=60", *more)).folder


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.99])
def test_a_long_step_leads_where_the_teacher_arrives(chance):
    """The teacher knows pictures that are independent pixels of mean 1 and variance 1/4."""
    steps, parts = 4, 200
    clean, noise = seeded_noise([1, 2, 3], (1, 4, 4)) / 2 + 1, seeded_noise([4, 5, 6], (1, 4, 4))
    chances = torch.tensor([chance, 0.55, 0.999])

    def denoiser(rows):
        assert set(rows.tolist()) <= {0, 1, 2}

        def denoise(noisy, time):
            variance = time**2 / 4 + (1 - time) ** 2
            return 1 + time / 4 / variance * (noisy - time)

        return denoise

    noisy, time, estimate = long_step(
        denoiser, clean, noise, chances, steps=steps, teacher_steps=steps * parts, solver=samplers.get("dpm_solver_3m")
    )
    assert torch.equal(time, (chances * steps).floor() / steps)
    for row in range(3):
        now, then = time[row].item(), time[row].item() + 1 / steps
        assert torch.allclose(noisy[row], now * clean[row] + (1 - now) * noise[row])
        landed = noisy[row] + (then - now) / (1 - now) * (estimate[row] - noisy[row])
        spread = [(at**2 / 4 + (1 - at) ** 2) ** 0.5 for at in (now, then)]
        exact = then + (noisy[row] - now) * spread[1] / spread[0]  # the path keeps its place in the distribution
        assert torch.allclose(landed, exact, atol=1e-3), row


def test_a_teacher_in_few_steps_is_followed_as_it_paints():
    """Of Euler's method, in the teacher's own steps: one long step over all of them leads to the teacher's picture."""
    clean, noise = seeded_noise([1, 2], (1, 4, 4)), seeded_noise([3, 4], (1, 4, 4))

    def denoise(noisy, time):
        return noisy * time + 1

    euler = samplers.get("euler")
    *_, painted = euler(denoise, noise, samplers.times(4))
    found = long_step(lambda rows: denoise, clean, noise, torch.zeros(2), steps=1, teacher_steps=4, solver=euler)
    assert torch.allclose(found.estimate, painted)


@pytest.mark.parametrize(("steps", "teacher_steps", "fits"), [(4, 10, 8), (4, 2, 4), (3, 20, 21)])
def test_the_teacher_takes_whole_steps_in_each_of_ours(steps, teacher_steps, fits):
    how = SETTINGS | {"codec": {"_target_": "artdiff.diffusion.codec.Identity"}, "steps": steps}
    message = rf"^task\.teacher_steps must be a multiple of task\.steps={steps}, got {teacher_steps}: set .*={fits}$"
    with pytest.raises(UserError, match=message):
        Distillation(**how, teacher_steps=teacher_steps, loss=object())
    Distillation(**how, teacher_steps=fits, loss=object())
    Distillation(**how, teacher_steps=teacher_steps)  # it is there to paint


@pytest.fixture(scope="module")
def student(art, teacher, tmp_path_factory):
    return distilled(art, tmp_path_factory.mktemp("student") / "run", teacher)


def test_its_few_steps_lead_nearer_to_the_teachers_pictures_than_the_teachers_own(art, teacher, student, tmp_path):
    noise, label = seeded_noise(range(500, 564), (3, 16, 16)), torch.arange(64) % 5
    in_one = distilled(art, tmp_path / "one", teacher, "task.steps=1")
    with torch.inference_mode():
        for steps, run in ((4, student), (1, in_one)):
            other = artdiff.load(run, device="cpu").task
            assert other.made_for["steps"] == steps
            *_, end = samplers.get("heun")(other.taught((label,)), noise, samplers.times(20))
            gaps = []
            for task in (artdiff.load(teacher, device="cpu").task, other):
                denoise = task.denoiser((label,), guidance=1.0, interval=(0, 1))
                *_, painted = samplers.get("euler")(denoise, noise, samplers.times(steps))
                gaps.append((painted - end).square().mean().item())
            assert gaps[1] < 0.8 * gaps[0], (steps, gaps)


def test_the_teacher_is_the_other_painter_and_stays_as_it_is(teacher, student):
    one, other = (artdiff.load(run, device="cpu").task for run in (teacher, student))
    theirs, ours, learned = (list(net.parameters()) for net in (one.ema, other.teacher, other.ema))
    assert all(torch.equal(*pair) for pair in zip(theirs, ours, strict=True))
    assert not any(torch.equal(*pair) for pair in zip(theirs, learned, strict=True))


def test_it_is_painted_with_as_few_steps_as_it_is_made_for(student, tmp_path):
    words = ("n=1", "label=truchet", "device=cpu")
    path, _ = generate(composed("generate", f"ckpt={student}", f"out={tmp_path / 'a'}", *words))
    told = json.loads(Image.open(path).text["artdiff"])
    assert (told["steps"], told["solver"], told["spacing"], told["guidance"]) == (4, "euler", "uniform", 1.0)
    path, _ = generate(composed("generate", f"ckpt={student}", f"out={tmp_path / 'b'}", "steps=1", *words))
    assert json.loads(Image.open(path).text["artdiff"])["steps"] == 1


def test_it_is_carried_on_bit_for_bit(art, teacher, student, tmp_path):
    half = distilled(art, tmp_path / "half", teacher, "trainer.max_steps=30")
    whole = distilled(art, tmp_path / "whole", teacher, f"ckpt={half}")
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (student, whole)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_it_teaches_one_that_paints_in_fewer_steps(art, student, tmp_path):
    asked = (*FEW, f"init={student}", "trainer.max_steps=2")
    run = train(small(art, tmp_path / "run", *asked, "task.steps=2"))
    task = checkpoints.restore(run.last).task
    assert (task.teacher_steps, task.teacher_solver, task.teacher_guidance) == (4, "euler", 1.0)
    assert artdiff.load(run, device="cpu").paint(n=1, label="truchet")[0].settings["steps"] == 2
    with pytest.raises(UserError, match=r"paints in 4 steps: task\.steps must divide them, got 3"):
        train(small(art, tmp_path / "a", *asked, "task.steps=3"))
    with pytest.raises(UserError, match="task.teacher_solver must be dpm_solver_2m"):
        train(small(art, tmp_path / "b", *asked, "task.teacher_solver=nothing"))


def test_it_can_be_given_away(student, tmp_path):
    asked = (f"ckpt={student}", f"to={tmp_path / 'model'}", "license=mit", "device=cpu", "samples=0")
    export(ExportSettings.of(composed("export", *asked)))
    painters = [artdiff.load(model, device="cpu") for model in (student, tmp_path / "model")]
    one, other = (painter.paint(n=1, label="truchet")[0] for painter in painters)
    assert one.picture.tobytes() == other.picture.tobytes() and other.settings["steps"] == 4


def test_mistakes_are_one_line(art, teacher, tmp_path):
    with pytest.raises(UserError, match=r"learns from a painter: set init=RUN"):
        train(small(art, tmp_path / "a", *FEW))
    with pytest.raises(UserError, match=r"paints 16 px: set data\.image_size=16"):
        train(small(art, tmp_path / "b", "experiment=few_steps", f"init={teacher}", "data.image_size=32"))
    copier = train(small(art, tmp_path / "copier", "loss=mse", "data.image_size=16")).folder
    with pytest.raises(UserError, match=r"expected a painter as teacher"):
        train(small(art, tmp_path / "c", *FEW, f"init={copier}"))


def test_words_are_not_lost_without_a_word(tmp_path):
    sample_art.paint(tmp_path / "art", per_style=4, seed=0, captions=True)
    worded = train(small(tmp_path / "art", tmp_path / "run", "experiment=paint32", *TINY, "data.captions=auto")).folder
    with pytest.raises(UserError, match=r"was trained with captions: set data\.captions=auto"):
        train(small(tmp_path / "art", tmp_path / "a", *FEW, f"init={worded}"))
    run = train(small(tmp_path / "art", tmp_path / "b", *FEW, f"init={worded}", "data.captions=auto")).folder
    assert artdiff.load(run, device="cpu").paint(n=1, prompt="hills")[0].settings["steps"] == 4
