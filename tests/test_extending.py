"""The examples of docs/EXTENDING.md, run as they stand there, from outside the package."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import composed, generate, train

import artdiff
from artdiff import UserError

PAGE = (Path(__file__).parents[1] / "docs/EXTENDING.md").read_text()
FILES = dict(re.findall(r"```(?:python|yaml)\n# (my_\S+)\n(.*?)```", PAGE, re.DOTALL))

TINY = ("experiment=paint32", "trainer=cpu", "data.image_size=16", "data.batch_size=8", "trainer.max_steps=2")
QUICK = ("trainer.limit_val_batches=1", "callbacks.grids=null", "network.channels=[16,32]", "network.cond_dim=16")


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A user's folder with the code and the configuration of the page."""
    home = tmp_path_factory.mktemp("outside")
    for name, text in FILES.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(home))
        yield home
    for name in [name for name in sys.modules if name.startswith("my_art")]:
        del sys.modules[name]


def trained(outside, art, run, *words):
    search = f"hydra.searchpath=[file://{outside / 'my_conf'}]"
    return train(composed("train", search, *TINY, f"data.root={art}", f"run_dir={run}", *words))


def painted(run, out, *words):
    fixed = (f"ckpt={run}", f"out={out}", "device=cpu", "n=2", "label=truchet", "steps=2")
    return generate(composed("generate", *fixed, *words))


def test_the_page_shows_one_example_of_each():
    assert {Path(name).stem for name in FILES if name.endswith(".py")} == {
        *("network", "loss", "sampler", "codec", "source"),
    }


def test_a_network_and_a_codec_of_ones_own_train_and_paint_once_they_are_trusted(outside, art, tmp_path):
    run = trained(outside, art, tmp_path / "run", "network=plain", "codec=shuffle", "task.data_std=1.0", *QUICK[:2])
    with pytest.raises(UserError, match=r"my_art\.\w+\.\w+.*trust_code=true"):
        painted(run.folder, tmp_path / "refused")
    assert len(painted(run.folder, tmp_path / "out", "trust_code=true")) == 3
    assert artdiff.load(run, device="cpu", trust_code=True).paint(n=1, label="truchet", steps=1)


def test_a_run_begins_with_the_weights_of_a_network_of_ones_own_on_other_classes(outside, art, tmp_path):
    first = trained(outside, art, tmp_path / "first", "network=plain", *QUICK[:2])
    other = tmp_path / "other"
    for number, style in enumerate(sorted(art.iterdir())[:2]):
        shutil.copytree(style, other / (style.name if number else "another"))
    words = ("network=plain", f"init={first.folder}", "trust_code=true", *QUICK[:2], f"data.root={other}")
    second = trained(outside, art, tmp_path / "second", *words)
    assert second.metadata["steps"] == 2


def test_the_configuration_of_ones_own_is_found_from_python(outside, art):
    words = ("--config-dir", str(outside / "my_conf"), "experiment=paint32", "network=plain", "run_dir=x")
    assert composed("train", *words)["network"]["_target_"] == "my_art.network.Plain"


def test_a_network_that_takes_no_out_channels_is_no_refiner(outside, art, tmp_path):
    (tmp_path / "conf/refiner").mkdir(parents=True)
    shutil.copy(outside / "my_conf/network/plain.yaml", tmp_path / "conf/refiner/plain.yaml")
    words = ("--config-dir", str(tmp_path / "conf"), "refiner=plain", "trainer=cpu")
    with pytest.raises(UserError, match=r"my_art.network.Plain takes no out_channels"):
        artdiff.train("paint128", *words, data={"root": art}, run_dir=tmp_path / "run")


def test_a_checkpoint_that_is_not_trusted_imports_nothing(outside, art, tmp_path):
    run = trained(outside, art, tmp_path / "run", "network=plain", *QUICK[:2])
    for name in [name for name in sys.modules if name.startswith("my_art")]:
        del sys.modules[name]
    with pytest.raises(UserError, match="trust_code=true"):
        artdiff.load(run)
    assert not [name for name in sys.modules if name.startswith("my_art")]


def test_a_loss_of_ones_own_is_logged_under_its_terms(outside, art, tmp_path):
    logged = ("loss=charbonnier", "logger=csv", "trainer.log_every_n_steps=1")
    run = trained(outside, art, tmp_path / "run", *logged, *QUICK)
    heading = (run.folder / "csv/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/charbonnier", "train/loss", "train/mse", "val/charbonnier"} <= set(heading)


def test_a_sampler_of_ones_own_paints(outside, art, tmp_path):
    run = trained(outside, art, tmp_path / "run", *QUICK)
    assert len(painted(run.folder, tmp_path / "out", "solver=my_art.sampler.Midpoint")) == 3


def test_an_optimizer_of_torch_and_a_callback_of_lightning_need_no_code(outside, art, tmp_path):
    optimizer = ("optimizer=adam", "optimizer._target_=torch.optim.AdamW", "+optimizer.weight_decay=0.01")
    callback = "+callbacks.mine._target_=lightning.pytorch.callbacks.ModelSummary"
    for word in (*optimizer, callback):
        assert word in PAGE
    run = trained(outside, art, tmp_path / "run", *optimizer, callback, *QUICK)
    state = torch.load(run.last, weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["weight_decay"] == 0.01


def test_a_source_of_ones_own_is_read(outside, art, tmp_path):
    lines = [f"{path.relative_to(art)}\t{path.stem[:4]}" for path in sorted(art.rglob("*.jpg"))]
    (art / "list.tsv").write_text("\n".join([*lines, "lost.jpg\tlost"]))
    try:
        source = f"data.source={{_target_:my_art.source.Listed,list:'{art}/list.tsv'}}"
        run = trained(outside, art, tmp_path / "run", source, "data.root=null", *QUICK)
    finally:
        (art / "list.tsv").unlink()
    saved = torch.load(run.last, weights_only=True)
    assert saved["hyper_parameters"]["classes"] == ["colo", "engr", "flow", "land", "truc"]
    assert "lost.jpg\tcannot be read: No such file or directory" in (run.folder / "set_aside.tsv").read_text()
