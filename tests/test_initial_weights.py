"""A new run on the weights of an earlier one: other pictures, other classes, another size."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from conftest import small, train

from artdiff import UserError
from artdiff.tasks import Generation
from artdiff.training import initial_weights

PAINTS = ("task=generation", "network=unet", "network.channels=[16,32]", "network.cond_dim=16", "scheduler=null")
WORDS = ("data.image_size=16", "loss=mse", "callbacks.grids=null", "data.batch_size=8")


def state(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def painter(art, tmp_path_factory):
    """A painter of five classes, trained for two steps."""
    run = tmp_path_factory.mktemp("painter") / "run"
    train(small(art, run, *PAINTS, *WORDS, "optimizer.lr=1e-2"))
    return run


@pytest.fixture
def others(art, tmp_path):
    """A folder with two of the classes, and one that is new."""
    for old, new in (("truchet", "truchet"), ("landscape", "landscape"), ("colour_field", "unheard")):
        shutil.copytree(art / old, tmp_path / "others" / new)
    return tmp_path / "others"


def test_a_new_run_begins_with_the_averaged_weights_and_knows_labels_by_their_names(painter, others, tmp_path, caplog):
    caplog.set_level("INFO")
    still = ("optimizer.lr=0", "trainer.max_steps=1", "data.image_size=24")
    run = train(small(others, tmp_path / "run", *PAINTS, *WORDS, *still, f"init={painter}"))
    before, now = state(painter), state(run.folder)
    table = "condition.label.weight"
    for name, value in now.items():
        if name.startswith("network.") and not name.endswith(table):
            assert torch.equal(value, before[f"ema.{name.removeprefix('network.')}"]), name
    classes = torch.load(painter / "checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]["classes"]
    rows = [classes.index("landscape"), classes.index("truchet"), 5, 5]  # what is new begins as the null label
    for part in ("network", "ema"):
        assert torch.equal(now[f"{part}.{table}"], before[f"ema.{table}"][rows])
    assert run.metadata["steps"] == 1
    assert f"new run from the weights of {painter}/checkpoints/last.ckpt: steps, optimizer" in caplog.text


@pytest.mark.slow
def test_such_a_run_is_carried_on_from_its_own_checkpoint(painter, art, tmp_path):
    words = (*PAINTS, *WORDS, f"init={painter}", f"run_dir={tmp_path}/run")
    whole = train(small(art, tmp_path / "whole", *words[:-1], "trainer.max_steps=4"))
    train(small(art, tmp_path / "run", *words, "trainer.max_steps=2"))
    run = train(small(art, tmp_path / "run", *words, "trainer.max_steps=4", "ckpt=last"))
    assert all(torch.equal(value, state(run.folder)[name]) for name, value in state(whole.folder).items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (*PAINTS, "network.channels=[16,64]"),
            r"has network.channels \[16, 32\], and this run \[16, 64\]: its weights",
        ),
        (("task=reconstruction",), "was trained as Generation, and this run trains Reconstruction"),
        ((*PAINTS, "init=nowhere"), "init=nowhere does not exist; expected a run's folder"),
    ],
)
def test_what_does_not_fit_is_one_line(painter, art, tmp_path, words, message):
    with pytest.raises(UserError, match=message) as caught:
        train(small(art, tmp_path / "run", *WORDS, f"init={painter}", *words))
    assert "\n" not in str(caught.value)


def test_the_articles_weights_begin_a_baseline(art, tmp_path):
    from artdiff.networks import ConvDiffusionModel

    torch.manual_seed(1)
    weights = ConvDiffusionModel().state_dict()
    torch.save(weights, tmp_path / "article.pth")
    run = train(small(art, tmp_path / "run", *WORDS, "optimizer.lr=0", f"init={tmp_path}/article.pth"))
    now = state(run.folder)
    assert all(torch.equal(now[f"network.{name}"], value) for name, value in weights.items() if "running" not in name
               and "num_batches" not in name)  # fmt: skip


def test_a_painter_without_words_teaches_none(monkeypatch):
    teacher = Mock(spec=Generation, vocabulary=[], made_for={}, hparams={"network": {}, "data_std": 0.5})
    restored = SimpleNamespace(task=teacher, transform=SimpleNamespace(size=16))
    monkeypatch.setattr(initial_weights.checkpoints, "restore", lambda *of, **how: restored)
    config = {"data": {"image_size": 16, "captions": "auto"}, "task": {}}
    with pytest.raises(UserError, match=r"was trained without captions and cannot teach them: set data.captions=none"):
        initial_weights._use_teacher(config, Path("run"), trust_code=False)
    initial_weights._use_teacher(
        config | {"data": {"image_size": 16, "captions": "none"}}, Path("run"), trust_code=False
    )


def test_code_outside_artdiff_is_not_run(art, tmp_path):
    network = {"_target_": "os.mkdir", "path": str(tmp_path / "made")}
    settings = {"network": network, "optimizer": {}, "scheduler": None, "ranges": "mended"}
    data = {"image_size": 16, "fit": "squash", "background": "white"}
    found = {"hyper_parameters": settings, "state_dict": {}, "datamodule_hyper_parameters": data}
    torch.save(found, tmp_path / "hostile.ckpt")
    with pytest.raises(UserError, match=r"init=.* names code outside artdiff"):
        train(small(art, tmp_path / "run", *WORDS, f"init={tmp_path}/hostile.ckpt"))
    assert not (tmp_path / "made").exists()
