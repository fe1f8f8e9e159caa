"""A search finds settings, stops trainings that are behind, and carries on when it was killed."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml
from conftest import command_line, composed, in_process, small, train

from artdiff import UserError
from artdiff.runs import Run
from artdiff.settings.training import TrainSettings
from artdiff.stages import planned
from artdiff.sweep import VALIDATIONS, SearchSettings, _best, _experiment, _training

pytestmark = pytest.mark.slow

PAINT = ("experiment=paint32", "trainer=cpu", "data.image_size=16", "network.channels=[16,32]", "network.cond_dim=16",
         "network.attention_resolutions=[]", "callbacks.grids=null", "trainer.max_epochs=2",
         "trainer.check_val_every_n_epoch=1")  # fmt: skip


def trials(out):
    study = optuna.load_study(study_name="artdiff", storage=f"sqlite:///{out}/study.db")
    return study.get_trials()


@pytest.fixture(scope="module")
def searched(art, tmp_path_factory):
    """The folder of a search of four trainings, two at a time, of which one diverges, and what it printed."""
    home = tmp_path_factory.mktemp("search")
    space = (
        "search.trials=4",
        "search.jobs=2",
        "+search.space.optimizer.lr.choices=[1e-3,-1.0]",
        "~search.space.network",
        "search.out=found",
    )
    printed = command_line("artdiff.sweep", "search=painting", *space, *PAINT, f"data.root={art}", cwd=home)
    return home / "found", printed


def test_a_search_tells_what_became_of_each_training(searched):
    out, printed = searched
    found = trials(out)
    assert len(found) == 4
    rows = [line.split("\t") for line in (out / "trials.tsv").read_text().splitlines()]
    assert rows[0] == ["trial", "state", "val/loss", "optimizer.lr", "folder", "reason"]
    assert [row[1] for row in rows[1:]] == [one.state.name.lower() for one in found]
    for row, one in zip(rows[1:], found, strict=True):
        if one.params["optimizer.lr"] < 0:
            assert row[1] == "fail"
            assert "optimizer.lr" in row[5] or "learning rate" in row[5]
            assert f"trial {one.number} failed: " in printed
        else:
            assert float(row[2]) == pytest.approx(one.value, rel=1e-4)
            scores = json.loads((out / row[4] / "metadata.json").read_text())["scores"]
            assert one.value == pytest.approx(scores["best val/loss"], rel=1e-4)
    assert "best: trial" in printed


def test_it_leaves_plots_that_need_no_network(searched):
    pages = {path.name for path in searched[0].glob("*.html")}
    assert pages == {"history.html", "slices.html", "parallel.html", "courses.html"}
    for page in pages:
        text = (searched[0] / page).read_text()
        assert "https://cdn" not in text
        assert 'src="plotly.min.js"' in text
    assert (searched[0] / "plotly.min.js").exists()


def test_the_best_settings_are_an_experiment_that_composes(searched, art):
    out, printed = searched
    words = ("--config-dir", str(out), "experiment=best", "--cfg", "job")
    assert f"--config-dir {out}" in printed
    shown = in_process("artdiff.train", *words, cwd=out)
    assert f"root: {art}" in shown
    assert "lr: 0.001" in shown
    assert "max_epochs: 2" in shown


def test_a_search_finds_how_a_run_paints_best(art, tmp_path):
    run = train(small(art, tmp_path / "run", "experiment=paint32", "data.image_size=16", "network.channels=[16,32]",
                      "network.cond_dim=16", "network.attention_resolutions=[]", "callbacks.grids=null",
                      "loss.perceptual.weights=random", "loss.perceptual.layer=relu1_1",
                      "data.val_fraction=0.3"))  # fmt: skip
    quick = (f"ckpt={run.folder}", "n=8", "bootstrap=0", "originality=false", "steps=1", "~search.space.steps")
    printed = command_line("artdiff.sweep", "search=guidance", "search.trials=2", "search.jobs=2", "search.out=found",
                           *quick, cwd=tmp_path)  # fmt: skip
    found = trials(tmp_path / "found")
    assert [set(one.params) for one in found] == [{"guidance"}] * 2
    for one in found:
        scores = json.loads((tmp_path / "found" / one.user_attrs["folder"] / "scores.json").read_text())
        assert scores["protocol"]["painted"]["guidance"] == pytest.approx(one.params["guidance"])
        assert one.value == scores["scores"][0]["frechet"]["value"]
    best = yaml.safe_load((tmp_path / "found/best.yaml").read_text())
    assert best == min(found, key=lambda one: one.value).params
    assert f"artdiff.generate ckpt={run.folder} guidance={best['guidance']} out=DIR" in printed


def test_a_search_that_was_killed_carries_on(art, tmp_path):
    words = ("search=painting", "search.trials=3", "search.out=found", *PAINT, f"data.root={art}",
             "trainer.max_epochs=6", "callbacks.last.pause=0")  # fmt: skip
    command, out = [sys.executable, "-m", "artdiff.sweep", *words], tmp_path / "found"
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as killed:
        for line in killed.stderr:
            if line.startswith("trial 1: val/loss"):
                break
        killed.kill()
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as again:
        printed = again.communicate(timeout=300)[1]
    assert again.returncode == 0, printed
    ended = [one for one in trials(out) if one.state.name != "FAIL"]
    assert len(ended) == 3
    assert len({one.user_attrs["folder"] for one in ended}) == 3
    for one in ended:
        folder = out / one.user_attrs["folder"]
        assert json.loads((folder / "metadata.json").read_text())["finished"]


def test_ctrl_c_stops_the_trainings_too(art, tmp_path):
    words = ("search=painting", "search.out=found", *PAINT, f"data.root={art}", "trainer.max_epochs=1000")
    with subprocess.Popen([sys.executable, "-m", "artdiff.sweep", *words], cwd=tmp_path, stderr=subprocess.PIPE,
                          text=True) as running:  # fmt: skip
        for line in running.stderr:
            if line.startswith("trial 0: val/loss"):
                break
        running.send_signal(signal.SIGINT)
        printed = running.communicate(timeout=60)[1]
    assert running.returncode == 130
    assert "the same command with search.out=found resumes" in printed
    metadata = json.loads((tmp_path / "found/trial_0000/metadata.json").read_text())
    assert metadata["steps"] > 0


def test_a_training_that_nobody_waits_for_saves_and_stops(art, tmp_path):
    trial = ("+callbacks.trial._target_=artdiff.training.trial.Trial", "+callbacks.trial.monitor=val/loss",
             f"+callbacks.trial.path={tmp_path}/told", "+callbacks.trial.parent=1")  # fmt: skip
    command_line("artdiff.train", *PAINT, f"data.root={art}", *trial, "hydra.run.dir=run", cwd=tmp_path, expect=143)
    assert (tmp_path / "run/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("+search.space.optimizer.lr.far=3",),
            "search.space.optimizer.lr must have choices, or low and high",
        ),
        (("search.space.optimizer.lr.low=a",), "search.space.optimizer.lr.low must be a number, got a"),
        (("+search.space.unheard=[1,2]",), "unheard"),
        (("search.trials=0",), "search.trials must be a whole number of at least 1, got 0"),
        (("search.seed=abc",), "search.seed must be a whole number of 0 to 4294967295, got abc"),
        (("search.seed=4294967296",), "search.seed must be a whole number of 0 to 4294967295, got 4294967296"),
        (
            ("+search.space.network.dropout.step=0", "search.space.network.dropout.low=0.0"),
            "search.space.network.dropout.step must be more than 0, got 0",
        ),
        (
            ("+search.space.seed={low:0,high:9,step:-1}",),
            "search.space.seed.step must be a whole number of at least 1, got -1",
        ),
        (("run_dir=mine",), "run_dir=mine would be the folder of all trials of the search: set search.out=DIR"),
        (("hydra.run.dir=mine",), "hydra.run.dir=mine would be the folder of all trials of the search"),
        (("search=guidance", "out=mine"), "out=mine would be the folder of all trials of the search"),
        (("search.space.optimizer.lr.low=1",), "search.space.optimizer.lr must have low below high"),
        (("search=nowhere",), "nowhere"),
        (("data.batch_size=0",), "data.batch_size must be a whole number of at least 1, got 0"),
    ],
)
def test_a_mistake_is_one_line(art, tmp_path, words, message):
    printed = in_process("artdiff.sweep", f"data.root={art}", *PAINT, "search.out=x", *words, cwd=tmp_path, expect=1)
    assert not (tmp_path / "x").exists()
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("word", ["search.out={art}/found", "runs_dir={art}/runs"])
def test_a_search_does_not_write_among_the_pictures(art, tmp_path, word):
    before = {*art.rglob("*")}
    printed = in_process("artdiff.sweep", f"data.root={art}", *PAINT, word.format(art=art), cwd=tmp_path, expect=1)
    place = "found" if "found" in word else "runs/paint32_sweep/"
    assert printed.startswith(f"search.out={art}/{place}")
    assert "lies in data.root" in printed
    assert {*art.rglob("*")} == before


def test_each_stage_of_a_trial_tells_in_its_own_folder(tmp_path):
    words = _training(Run(Path("found/trial_0000")), SearchSettings.of({**SEARCH, "space": {"seed": [1]}}))
    folder = tmp_path / "found/trial_0000"
    settings = TrainSettings.of(composed("train", "experiment=paint128", *words, f"run_dir={folder}"))
    told = [stage.settings.callbacks["trial"]["path"] for stage in planned(settings)]
    assert told == [f"{folder}/refine/{VALIDATIONS}", f"{folder}/{VALIDATIONS}"]


def test_an_experiment_keeps_choices_and_values_apart(tmp_path):
    path = _experiment({"optimizer.lr": 0.5, "network.dropout": 0.25}, ["experiment=paint32", "network=vit", "seed=3"],
                       tmp_path)  # fmt: skip
    text = path.read_text()
    assert text.startswith("# @package _global_\n")
    found = composed("train", "experiment=paint32", "network=vit", "seed=3", "optimizer.lr=0.5", "run_dir=x")
    TrainSettings.of(found)
    assert "override /network: vit" in text


def test_values_are_written_as_overrides(tmp_path):
    path = _experiment({"trainer.gradient_clip_val": None, "network": "vit"}, ["experiment=paint32"], tmp_path)
    found = yaml.safe_load(path.read_text())
    assert found["trainer"] == {"gradient_clip_val": None}
    assert {"override /network": "vit"} in found["defaults"]


def test_an_experiment_takes_the_codec_of_a_run(tmp_path):
    (tmp_path / "run").mkdir()
    _experiment({"seed": 3}, ["experiment=latent128", f"codec={tmp_path}/run"], tmp_path)
    found = composed("train", "--config-dir", tmp_path, "experiment=best", "run_dir=x")
    assert (found["codec_from"], found["seed"]) == (f"{tmp_path}/run", 3)


def test_the_best_settings_find_what_the_search_found(tmp_path):
    (tmp_path / "my conf/experiment").mkdir(parents=True)
    own = "# @package _global_\ndefaults: [paint32, _self_]\nseed: 7\n"
    (tmp_path / "my conf/experiment/own.yaml").write_text(own)
    words = ["--config-dir", str(tmp_path / "my conf"), "experiment=own"]
    _experiment({"optimizer.lr": 0.5}, words, tmp_path / "found")
    module, *typed = shlex.split(_best(words, tmp_path / "found"))[2:]
    shown = in_process(module, *typed, "--cfg", "job", cwd=tmp_path)
    assert "seed: 7" in shown
    assert "lr: 0.5" in shown


SEARCH = {"monitor": "val/loss", "mode": "min", "trials": 1, "jobs": 1, "prune": True, "seed": 0, "out": None}


def test_a_space_may_have_whole_numbers_steps_and_choices():
    SearchSettings.of({**SEARCH, "space": {"a": {"low": 1, "high": 9, "step": 2}, "b": [1, "x"]}})
    with pytest.raises(UserError, match="search.mode must be min or max, got most"):
        SearchSettings.of({**SEARCH, "mode": "most", "space": {"a": [1]}})
