"""What runs and the other commands leave in a user's folder."""

import hashlib
import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import command_line, composed, generate, in_process, train
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from artdiff import UserError
from artdiff.ingest.sample_art import STYLES
from artdiff.networks import ConvDiffusionModel
from artdiff.sweeps import JOB, Job, Jobs

pytestmark = pytest.mark.slow

TRAIN = "artdiff.train"
TWO_STEPS = ("experiment=baseline", "debug=two_steps", "trainer=cpu")
MONITORED = {"train/lr", "train/images_per_second", "memory/resident"}


@pytest.fixture(scope="module")
def home(tmp_path_factory, art):
    """A user's folder with `pictures` in it, one of which is a web page."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(art, home / "pictures")
    (home / "pictures/page.jpg").write_bytes(b"<html>404</html>")
    return home


@pytest.fixture(scope="module")
def trained(home):
    """A run of two steps, and its output."""
    words = (*TWO_STEPS, "data.root=pictures", "trainer.log_every_n_steps=1", "hydra.run.dir=run")
    return home / "run", command_line(TRAIN, *words, cwd=home)


def test_a_run_leaves_what_the_readme_lists(trained):
    run, printed = trained
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "last-1.ckpt", "best.ckpt"}
    assert (run / "set_aside.tsv").read_text() == "file\treason\npage.jpg\tnot a picture (HTML)\n"
    metadata = json.loads((run / "metadata.json").read_text())
    held_out = metadata["data"]["validation"]
    with Image.open(run / "samples/step_0000002.png") as grid:
        assert grid.size == (min(8, held_out) * 32, 2 * 32)
    assert metadata["perceptual_weights"] == "random"
    assert metadata["data"]["set_aside"] == 1
    assert metadata["data"]["files"] == 41
    assert metadata["steps"] == 2
    assert (run / "config.yaml").exists()
    assert (run / "train.log").exists()
    assert (run / "duplicates.tsv").read_text() == "file\tcopy_of\tlooks_like\tsplit\n"
    assert "1 set aside (1 not a picture (HTML))" in printed
    assert "-m artdiff.generate ckpt=run" in printed
    assert "trainer.max_steps=4 ckpt=run  # resumes" in printed


def test_a_checkpoint_holds_plain_values_and_its_settings(trained):
    found = torch.load(trained[0] / "checkpoints/last.ckpt", weights_only=True)
    assert found["artdiff"]["perceptual_weights"] == "random"
    assert type(found["hyper_parameters"]["network"]) is dict
    assert found["datamodule_hyper_parameters"]["image_size"] == 32


def test_tensorboard_gets_scalars_grids_and_hyperparameters(trained):
    events = EventAccumulator(str(trained[0]))
    events.Reload()
    tags = events.Tags()
    assert {"val/loss", "val/psnr", "val/ssim", "final/psnr", "final/best_loss", *MONITORED} <= set(tags["scalars"])
    assert tags["images"] == ["at a glance/pictures"]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["optimizer/lr"].number_value == pytest.approx(1e-3)


def test_generate_paints_from_a_run(trained, home, art):
    command_line("artdiff.generate", "ckpt=run", "muse=pictures", "out=made", "device=cpu", cwd=home)
    made = {path.name for path in (home / "made").iterdir()}
    assert made == {f"{path.stem}.png" for path in art.rglob("*.jpg")} | {"sheet.png"}
    with Image.open(home / "made/truchet_000.png") as picture:
        assert picture.size == (32, 32)
        assert "compositeWithTrainedAlgorithmicMedia" in picture.info["XML:com.adobe.xmp"]


@pytest.fixture(scope="module")
def article(tmp_path_factory):
    """A state_dict as the article's program saves it."""
    path = tmp_path_factory.mktemp("article") / "article.pth"
    torch.save(ConvDiffusionModel().state_dict(), path)
    return path


def test_generate_reconstructs_at_a_pictures_own_size_and_overwrites_nothing(article, tmp_path, art):
    muse, out = art / "landscape/landscape_000.jpg", tmp_path / "out"
    config = composed("generate", f"ckpt={article}", f"muse={muse}", f"out={out}", "size=own", "device=cpu")
    generate(config)
    written = generate(config)
    assert [path.name for path in written] == ["landscape_000_2.png", "sheet_2.png"]
    assert len(list(out.iterdir())) == 4
    with Image.open(muse) as picture, Image.open(out / "landscape_000.png") as painted:
        assert picture.size == painted.size


def test_a_picture_too_large_for_its_own_size_is_set_aside(article, tmp_path, art, caplog):
    muse = art / "landscape"
    words = (f"ckpt={article}", f"muse={muse}", f"out={tmp_path / 'out'}", "size=own", "max_pixels=20000")
    written = generate(composed("generate", *words, "device=cpu"))
    sizes = [Image.open(path).size for path in muse.iterdir()]
    painted = sum(width * height <= 20_000 for width, height in sizes)
    assert 0 < painted < len(sizes)
    assert len(written) == painted + 1
    assert caplog.text.count("is more than max_pixels=20,000") == len(sizes) - painted


def test_a_muse_that_is_no_picture_is_reported(article, tmp_path, home):
    muse = home / "pictures/page.jpg"
    with pytest.raises(UserError, match="holds no picture that can be read"):
        generate(composed("generate", f"ckpt={article}", f"muse={muse}", f"out={tmp_path / 'out'}"))


def test_a_multirun_gives_each_job_a_folder_and_continues_after_a_failed_one(home):
    words = (*TWO_STEPS, "loss=mse", "data.root=pictures", "data.batch_size=0,4", "optimizer.lr=1e-3,1e-30")
    printed = command_line(TRAIN, "-m", *words, cwd=home, expect=1)
    assert (
        printed.count("data.batch_size must be a whole number of at least 1, got 0") == 4
    )  # at once, and in the table
    assert "Traceback" not in printed
    (sweep,) = (home / "runs/baseline_sweep").iterdir()
    learning_rates = []
    for job in ("2", "3"):
        run = sweep / job
        assert list(run.glob("events*"))
        found = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
        learning_rates.append(found["hyper_parameters"]["optimizer"]["lr"])
    assert learning_rates == [1e-3, 1e-30]
    table = [line.split("\t") for line in (sweep / "sweep.tsv").read_text().splitlines()]
    jobs = [["0", "failed"], ["1", "failed"], ["2", "done"], ["3", "done"]]
    assert [line[:2] for line in table] == [["job", "status"], *jobs]
    assert table[1][5] == "data.batch_size must be a whole number of at least 1, got 0"
    assert table[3][3].endswith("loss=mse data.root=pictures data.batch_size=4 optimizer.lr=0.001")
    scores = json.loads((sweep / "2/metadata.json").read_text())["scores"]
    assert float(table[3][2]) == pytest.approx(scores["best val/loss"], rel=1e-3)
    assert f"{sweep.name}/3" in printed
    assert re.search(r"3 +done +[\d.]+ +data.batch_size=4 optimizer.lr=1e-30 ", printed)
    assert re.search(r"all jobs: .*loss=mse data.root=pictures\n", printed)
    assert "best: job " in printed


@pytest.mark.parametrize(
    "launcher",
    [
        ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", "hydra.launcher.cpus_per_task=1"),
    ],
    ids=lambda words: words[0].rpartition("=")[2],
)
def test_the_jobs_of_a_sweep_run_side_by_side(home, launcher):
    name = launcher[0].rpartition("=")[2]
    words = (*TWO_STEPS, "loss=mse", "data.root=pictures", "data.image_size=16", "callbacks.grids=null")
    grid = ("data.batch_size=0,4", "seed=1,2", f"hydra.sweep.dir={name}")
    printed = command_line(TRAIN, "-m", *words, *launcher, *grid, cwd=home, expect=1)
    table = [line.split("\t") for line in (home / name / "sweep.tsv").read_text().splitlines()[1:]]
    assert [line[1] for line in table] == ["failed", "failed", "done", "done"], printed
    assert {line[5] for line in table[:2]} == {"data.batch_size must be a whole number of at least 1, got 0"}
    assert all((home / line[4] / "checkpoints/last.ckpt").exists() for line in table[2:])


@pytest.mark.parametrize(
    ("varied", "last"),
    [
        ("seed=%s", "best: job 1 with a score (best val/loss) of 0.1"),
        ("loss.perceptual_weight=%s", "no best job by val/loss, .* use another score"),
        ("+loss.perceptual_weight=%s", "no best job"),
        ("loss=loss_%s", "no best job"),
    ],
)
def test_jobs_of_different_losses_are_not_compared_by_them(tmp_path, caplog, varied, last):
    for number, score in enumerate((0.3, 0.1)):
        (tmp_path / f"{number}/.hydra").mkdir(parents=True)
        job = Job(["loss.pixel=mse", varied % number], None, score)
        (tmp_path / f"{number}/{JOB}").write_text(json.dumps(job._asdict()))
    with caplog.at_level(logging.INFO):
        Jobs().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert re.match(last.replace("(", r"\(").replace(")", r"\)"), caplog.messages[-1])
    assert (tmp_path / "sweep.tsv").exists()


@pytest.mark.parametrize("sweep", ["-m", "sweep=lr", "hydra.mode=MULTIRUN"])
@pytest.mark.parametrize("folder", ["run_dir=mine", "hydra.sweep.subdir=mine"])
def test_the_jobs_of_a_sweep_never_share_a_folder(home, sweep, folder):
    printed = in_process(TRAIN, sweep, *TWO_STEPS, "data.root=pictures", "seed=1,2", folder, cwd=home, expect=1)
    assert f"{folder} would be the folder of all jobs of the sweep" in printed


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda sent: sent.name)
def test_a_signal_saves_and_the_run_can_be_resumed(home, monkeypatch, caplog, sent):
    run = f"stopped_{sent.name}"
    words = ("debug=two_steps", "loss=mse", "data.root=pictures", "trainer=cpu", "data.image_size=16")
    command = [sys.executable, "-m", TRAIN, *words, "trainer.max_steps=-1", f"hydra.run.dir={run}"]
    last = home / run / "checkpoints/last.ckpt"
    with subprocess.Popen(command, cwd=home, text=True, stderr=subprocess.PIPE) as running:
        deadline = time.monotonic() + 120
        while not last.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        saved_first = torch.load(last, weights_only=True)["global_step"]
        running.send_signal(sent)
        printed = running.communicate(timeout=60)[1]
    assert running.returncode == 128 + sent
    assert "interrupted at step" in printed
    assert "Traceback" not in printed
    stopped = torch.load(last, weights_only=True)["global_step"]
    assert stopped >= saved_first
    monkeypatch.chdir(home)
    caplog.set_level(logging.INFO)
    train(composed("train", *words, f"trainer.max_steps={stopped + 1}", f"run_dir={run}", "ckpt=last"))
    assert f"resuming from {run}/checkpoints/last.ckpt at step {stopped:,}" in caplog.text


def test_an_audit_reports_the_folder_and_its_runs_keep_the_digest(home, trained):
    words = ("data.root=pictures", "data.image_size=32", "seed=5", "out=it's (1)")
    printed = in_process("artdiff.audit", *words, cwd=home)
    out = home / "it's (1)"
    sheets = {f"contact_sheet_{number}_{style}.png" for number, style in enumerate(sorted(STYLES))}
    assert {path.name for path in out.iterdir()} == {"set_aside.tsv", "manifest.tsv", "data_card.md", *sheets}
    with Image.open(out / "contact_sheet_0_colour_field.png") as sheet:
        assert sheet.size == (8 * 160, 160)
    assert (out / "set_aside.tsv").read_text() == "file\treason\npage.jpg\tnot a picture (HTML)\n"
    digest = hashlib.sha256((out / "manifest.tsv").read_bytes()).hexdigest()
    assert f"manifest: {digest}" in printed
    assert (out / "data_card.md").read_text().split("---\n\n")[1].strip() in printed
    for name in ("set_aside.tsv", "contact_sheet_0_colour_field.png"):
        again = in_process("artdiff.audit", *words, cwd=home, expect=1)
        assert again.splitlines()[-1] == f"out=it's (1) holds {name} already; choose another folder"
        for path in out.glob("*.[tm]*"):
            path.unlink()
    checkpoint = torch.load(trained[0] / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["ArtDataModule"]["manifest"] == digest
    assert json.loads((trained[0] / "metadata.json").read_text())["data"]["manifest"] == digest


def test_pruning_removes_unused_files(home, tmp_path):
    words = (f"data.root={home}/pictures", f"data.cache_dir={tmp_path}", "run_dir=unused")
    instantiate(composed("train", *words)["data"]).setup()
    prune = ("artdiff.prune", f"cache_dir={tmp_path}")
    assert re.search(r"^kept: 41 .*files", in_process(*prune, cwd=home), re.MULTILINE)
    dry = in_process(*prune, "unused_days=0", "dry_run=true", cwd=home)
    assert re.search(r"^would be removed: 41 .*files", dry, re.MULTILINE)
    assert list(tmp_path.glob("decoded/*"))
    removed = in_process(*prune, "unused_days=0", cwd=home)
    assert re.search(r"^removed: 41 .*files", removed, re.MULTILINE)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".lock"}
