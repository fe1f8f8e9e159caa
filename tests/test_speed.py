"""What keeps a step fast: nothing waits for the device, and networks are compiled without changing them."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import composed, generate, small, train
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from artdiff import UserError, compiled
from artdiff.compiled import FixedBatch
from artdiff.settings.painting import GenerateSettings
from artdiff.settings.training import TrainSettings
from artdiff.tasks.base import Task
from artdiff.training import progress

TINY = ("network=unet", "network.channels=[16,32]", "network.cond_dim=16", "data.image_size=16")
PAINTS = ("task=generation", "scheduler=null", *TINY, "trainer.gradient_clip_val=1.0", "data.flip=0.5")

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_consecutive")


class Waits(TorchDispatchMode):
    """Counts operations that would wait for an accelerator, because they read a value or a size from a tensor.

    Copies to the CPU are not counted: here everything is on the CPU.
    """

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        is_mask = name in ("index", "index_put_") and any(
            place is not None and place.dtype == torch.bool for place in args[1]
        )
        self.count += name in WAITS or is_mask
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", [(), PAINTS], ids=["reconstruction", "generation"])
def test_a_step_that_is_not_logged_never_waits_for_the_device(art, tmp_path, monkeypatch, kind, accumulate):
    """Holds with all callbacks that act on steps: the monitor, progress lines and accumulated gradients."""
    monkeypatch.setattr(Task, "reads_values", property(lambda self: (self.global_step + 1) % 4 == 0))  # as on a GPU
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: 0.0))  # a line after 20 s would read values
    waits, at_start = Waits(), []
    monkeypatch.setattr(Task, "on_train_batch_start", lambda self, *_: at_start.append((self.global_step, waits.count)))
    words = ("trainer.log_every_n_steps=4", "callbacks.grids=null", "callbacks.best=null", "callbacks.last=null")
    batches = (f"+trainer.accumulate_grad_batches={accumulate}", f"data.batch_size={4 // accumulate}")
    with waits:
        train(small(art, tmp_path, *kind, *words, *batches, "loss.perceptual.layer=relu1_1", "trainer.max_steps=8"))
    in_steps = {}
    for (step, before), (_, after) in pairwise(at_start):
        in_steps[step] = in_steps.get(step, 0) + after - before
    assert in_steps.pop(3) > 0  # the step that is logged
    assert in_steps == {0: 0, 1: 0, 2: 0, 4: 0, 5: 0, 6: 0, **({} if accumulate == 1 else {7: 0})}


@pytest.fixture
def eagerly(monkeypatch):
    """torch.compile without a C++ compiler, which not every machine has."""
    compiles = nn.Module.compile
    how = {"backend": "eager", "dynamic": False}
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode, dynamic: compiles(self, **how))


def test_only_batches_of_the_usual_size_are_compiled(eagerly):
    calls = []
    network = nn.Sequential(nn.Linear(3, 2), nn.SiLU())
    keys = list(network.state_dict())
    fixed = FixedBatch(network)
    fixed.compile_for(4, "default")
    compiled_call = network._compiled_call_impl
    network._compiled_call_impl = lambda *words: calls.append(len(words[0])) or compiled_call(*words)
    for count in (4, 3):
        image = torch.randn(count, 3)
        torch.testing.assert_close(fixed(image), network.forward(image))
    with torch.inference_mode():
        fixed(torch.randn(4, 3))
    assert calls == [4]
    assert list(network.state_dict()) == keys


@pytest.mark.parametrize(
    ("asked", "device", "calls", "mode"),
    [
        ("auto", "cpu", 1e9, None),
        ("auto", "cuda", compiled.CALLS - 1, None),
        ("auto", "cuda", compiled.CALLS, "default"),
        ("auto", "cuda:1", compiled.CALLS, None),
        ("none", "cuda", 1e9, None),
        ("reduce-overhead", "cpu", 1, "reduce-overhead"),
    ],
)
def test_auto_compiles_long_runs_on_able_gpus(monkeypatch, asked, device, calls, mode):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(compiled, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda on: (6, 1) if on.index == 1 else (9, 0))
    assert compiled.mode(asked, torch.device(device), calls=calls) == mode


@pytest.mark.slow
def test_a_compiled_run_trains_and_paints(art, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: asked.append((type(self).__name__, how)))
    train(small(art, tmp_path, *PAINTS, "loss=hybrid_random", "loss.perceptual.layer=relu1_1", "compile=max-autotune"))
    how = {"mode": "max-autotune", "dynamic": False}
    assert asked == [("UNet", how)]  # on a GPU VGG16 too; on a CPU it takes a batch in parts
    asked.clear()
    words = (f"ckpt={tmp_path}", f"out={tmp_path}/out", "device=cpu", "n=1", "steps=1", "label=truchet")
    generate(composed("generate", *words, "compile=default"))
    assert asked == [("UNet", {"mode": "default", "dynamic": False})]


def test_settings_about_speed_are_checked(art, tmp_path):
    for words, message in (
        (("compile=fast",), "compile must be auto or none or default or reduce-overhead or max-autotune, got fast"),
        (("trainer.precision=16-mixed",), "set optimizer.fused=false"),
        (("+trainer.gradient_clip_algorithm=value",), "gradient_clip_algorithm must be null or norm, got value"),
        (("loss.perceptual.keep=-1",), "loss.perceptual.keep must be 0 or more, got -1"),
    ):
        with pytest.raises(UserError, match=message):
            TrainSettings.of(small(art, tmp_path, *words))
    TrainSettings.of(small(art, tmp_path, "trainer.precision=16-mixed", "optimizer.fused=false"))
    with pytest.raises(UserError, match="compile must be auto or none"):
        GenerateSettings.of(composed("generate", "ckpt=some", "out=some", "compile=fast"))


def test_a_codec_is_not_compiled_since_its_halves_are_called(art, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(FixedBatch, "compile_for", lambda self, count, how: asked.append(type(self.module).__name__))
    words = ("compile=default", "data.train_crop=16", "loss.perceptual.weights=random", "loss.perceptual.layer=relu1_1")
    train(small(art, tmp_path, "experiment=codec", *words))
    assert "Autoencoder" not in asked


def test_the_loop_without_lightning_that_benchmarks_race_takes_a_step(art, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    from contenders import Bare

    loop = Bare(small(art, tmp_path, "experiment=paint32", *TINY), torch.device("cpu"))
    before = {name: weight.clone() for name, weight in loop.task.network.named_parameters()}
    loop.step()
    assert any(not torch.equal(before[name], weight) for name, weight in loop.task.network.named_parameters())
