"""What keeps a step fast: nothing waits for the device, and compiled networks are the same networks."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from conftest import composed, generate, small, train
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from artdiff import UserError, compiled
from artdiff.compiled import FixedBatch
from artdiff.settings import GenerateSettings, TrainSettings
from artdiff.tasks.base import Task
from artdiff.training.progress import ProgressBar

TINY = ("network=unet", "network.channels=[16,32]", "network.features=16", "data.image_size=16")
PAINTS = ("task=generation", "scheduler=null", *TINY, "trainer.gradient_clip_val=1.0", "data.flip=0.5")


WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_consecutive")


class Looks(TorchDispatchMode):
    """Counts what would wait for an accelerator: a number, or a size, that is asked of a tensor.

    Copies to the CPU cannot be told from others where all is on it.
    """

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        is_mask = name in ("index", "index_put_") and any(
            place is not None and place.dtype == torch.bool for place in args[1]
        )
        self.count += name in WAITS or is_mask
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [(), PAINTS], ids=["reconstruction", "generation"])
def test_a_step_that_is_not_logged_never_waits_for_the_device(art, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(Task, "reads_values", property(lambda self: (self.global_step + 1) % 4 == 0))  # as on a GPU
    looks, at_begin = Looks(), []
    monkeypatch.setattr(Task, "on_train_batch_start", lambda self, *_: at_begin.append(looks.count))
    every = ("trainer.log_every_n_steps=4", "callbacks.grids=null", "callbacks.best=null", "callbacks.last=null")
    with looks:
        train(small(art, tmp_path, *kind, *every, "trainer.max_steps=8", "data.batch_size=4"))
    in_each = [after - before for before, after in pairwise(at_begin)]
    assert len(in_each) == 7
    assert in_each[3] > 0  # the step that is logged
    assert in_each[:3] == in_each[4:] == [0, 0, 0]


@pytest.fixture
def eagerly(monkeypatch):
    """torch.compile without a compiler of C++, which not every machine has."""
    compiles = nn.Module.compile
    how = {"backend": "eager", "dynamic": False}
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode, dynamic: compiles(self, **how))


def test_the_usual_batch_is_compiled_and_all_others_are_not(eagerly):
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
def test_compiling_is_for_gpus_that_can_and_long_runs(monkeypatch, asked, device, calls, mode):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(compiled, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda on: (6, 1) if on.index == 1 else (9, 0))
    assert compiled.mode(asked, torch.device(device), calls=calls) == mode


def test_what_was_compiled_is_a_run_like_any_other(art, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: asked.append((type(self).__name__, how)))
    train(small(art, tmp_path, *PAINTS, "loss=hybrid_random", "loss.perceptual.layer=relu1_1", "compile=max-autotune"))
    how = {"mode": "max-autotune", "dynamic": False}
    assert asked == [("UNet", how)]  # and on a GPU VGG16, which sees parts of a batch on a CPU
    asked.clear()
    words = (f"ckpt={tmp_path}", f"out={tmp_path}/out", "device=cpu", "n=1", "steps=1", "label=truchet")
    generate(composed("generate", *words, "compile=default"))
    assert asked == [("UNet", {"mode": "default", "dynamic": False})]


def test_the_bar_asks_for_the_loss_by_itself():
    metrics = {"train/loss": torch.tensor(0.5), "train/mse": torch.tensor(0.25), "val/psnr": torch.tensor(20.0)}
    trainer = SimpleNamespace(callback_metrics=metrics, progress_bar_metrics={}, loggers=[])
    assert ProgressBar().get_metrics(trainer, None) == {"train/loss": 0.5, "val/psnr": 20.0}


def test_settings_that_cannot_be_are_refused(art, tmp_path):
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
