"""The doors as users open them: through the command line, in a folder of their own."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import command_line, composed, generate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from artdiff import UserError, runs
from artdiff.cli import literal
from artdiff.ingest.sample_art import STYLES
from artdiff.networks import ConvDiffusionModel

TRAIN = "artdiff.train"
TWO_STEPS = ("experiment=baseline", "debug=two_steps", "trainer=cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory, art):
    """A user's folder with `pictures` in it, one of which is a web page."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(art, home / "pictures")
    (home / "pictures/page.jpg").write_bytes(b"<html>404</html>")
    return home


@pytest.fixture(scope="module")
def trained(home):
    """A run of two steps, and what it printed."""
    printed = command_line(TRAIN, *TWO_STEPS, "data.root=pictures", "hydra.run.dir=run", cwd=home)
    return home / "run", printed


def test_a_run_leaves_what_it_promises(trained):
    run, printed = trained
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert (run / "set_aside.tsv").read_text() == "file\treason\npage.jpg\tnot a picture (HTML)\n"
    metadata = json.loads((run / "metadata.json").read_text())
    held_out = metadata["data"]["validation"]
    with Image.open(run / "samples/step_0000002.png") as grid:
        assert grid.size == (min(8, held_out) * 32, 2 * 32)
    assert metadata["perceptual_weights"] == "random"
    assert metadata["data"]["set_aside"] == 1
    assert metadata["steps"] == 2
    assert (run / "config.yaml").exists()
    assert "1 set aside (1 not a picture (HTML))" in printed
    assert metadata["data"]["files"] == 41
    assert (run / "duplicates.tsv").read_text() == "file\tcopy_of\tlooks_like\tsplit\n"
    assert "-m artdiff.generate ckpt=run" in printed
    assert "trainer.max_steps=4 ckpt=run  # carries on" in printed


def test_the_checkpoint_holds_plain_values_and_says_what_it_was_trained_with(trained):
    found = torch.load(trained[0] / "checkpoints/last.ckpt", weights_only=True)
    assert found["artdiff"]["perceptual_weights"] == "random"
    assert type(found["hyper_parameters"]["network"]) is dict
    assert found["datamodule_hyper_parameters"]["image_size"] == 32


def test_tensorboard_gets_scalars_grids_and_hyperparameters(trained):
    events = EventAccumulator(str(trained[0] / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"val/loss", "val/psnr", "val/ssim", "final/psnr", "final/best_loss"} <= set(tags["scalars"])
    assert tags["images"] == ["samples"]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["optimizer/lr"].number_value == pytest.approx(1e-3)


def test_generate_paints_from_a_run(trained, home, art):
    command_line("artdiff.generate", "ckpt=run", "muse=pictures", "out=made", "device=cpu", cwd=home)
    made = {path.name for path in (home / "made").iterdir()}
    assert made == {f"{path.stem}.png" for path in art.rglob("*.jpg")} | {"sheet.png"}
    with Image.open(home / "made/truchet_000.png") as picture:
        assert picture.size == (32, 32)
        assert "trainedAlgorithmicMedia" in picture.info["XML:com.adobe.xmp"]


@pytest.fixture
def article(tmp_path):
    """A state_dict as the article's program saves it."""
    torch.save(ConvDiffusionModel().state_dict(), tmp_path / "article.pth")
    return tmp_path / "article.pth"


def test_generate_paints_at_a_pictures_own_size_and_overwrites_nothing(article, tmp_path, art):
    muse, out = art / "landscape/landscape_000.jpg", tmp_path / "out"
    cfg = composed("generate", f"ckpt={article}", f"muse={muse}", f"out={out}", "size=own", "device=cpu")
    generate(cfg)
    written = generate(cfg)
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


def test_a_multirun_gives_each_job_its_own_folder_and_goes_on_after_one_that_fails(home):
    words = ("-m", *TWO_STEPS, "data.root=pictures", "data.batch_size=0,4", "optimizer.lr=1e-3,1e-30")
    printed = command_line(TRAIN, *words, cwd=home, expect=1)
    assert printed.count("data.batch_size must be a whole number of at least 1, got 0") == 2
    assert "Traceback" not in printed
    (sweep,) = (home / "runs/baseline_sweep").iterdir()
    learning_rates = []
    for job in ("2", "3"):
        run = sweep / job
        assert list((run / "tensorboard").glob("events*"))
        found = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
        learning_rates.append(found["hyper_parameters"]["optimizer"]["lr"])
    assert learning_rates == [1e-3, 1e-30]
    assert f"{sweep.name}/3" in printed


def test_ctrl_c_saves_and_the_run_can_be_carried_on(home):
    words = (
        "debug=two_steps",
        "data.root=pictures",
        "trainer=cpu",
        "trainer.max_steps=-1",
        "hydra.run.dir=stopped",
    )
    with subprocess.Popen(
        [sys.executable, "-m", TRAIN, *words], cwd=home, text=True, stderr=subprocess.PIPE
    ) as running:
        deadline = time.monotonic() + 120
        while not (home / "stopped/checkpoints/last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        saved_first = torch.load(home / "stopped/checkpoints/last.ckpt", weights_only=True)["global_step"]
        running.send_signal(signal.SIGINT)
        printed = running.communicate(timeout=60)[1]
    assert running.returncode == 1
    assert "interrupted at step" in printed
    assert "Traceback" not in printed
    stopped = torch.load(home / "stopped/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert stopped >= saved_first
    printed = command_line(TRAIN, *words[:3], f"trainer.max_steps={stopped + 1}", words[-1], "ckpt=last", cwd=home)
    assert f"carrying on from stopped/checkpoints/last.ckpt at step {stopped:,}" in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((TRAIN, "data.image_size=100"), "data.image_size must be a multiple of 8, got 100"),
        ((TRAIN, "data.root=pictures", "ckpt=nowhere"), "ckpt=nowhere does not exist"),
        ((TRAIN, "data.root=pictures", "loss.perceptual.weights=nowhere.pth"), "nowhere.pth is no file"),
        ((TRAIN, "data.root=nowhere"), "data.root=nowhere does not exist"),
        ((TRAIN, "data.root=."), "run_dir="),
        (("artdiff.audit", "data.root=pictures"), "out must be given"),
        (
            ("artdiff.audit", "data.root=pictures", "out=pictures/audit"),
            "out=pictures/audit lies in data.root=pictures",
        ),
        (("artdiff.prune", "cache_dir=nowhere"), "there is no cache in nowhere"),
        (("artdiff.prune", "unused_days=-1"), "unused_days must be 0 or more, got -1"),
        (("artdiff.generate",), "ckpt and out must be given"),
        (("artdiff.generate", "ckpt=nowhere", "out=x"), "ckpt=nowhere does not exist"),
        (("artdiff.generate", "ckpt=run", "out=x", "muse=nowhere"), "muse=nowhere does not exist"),
        (("artdiff.generate", "ckpt=run", "out=x", "size=huge"), "size must be train or own, got huge"),
        (("artdiff.generate", "ckpt=run", "out=pictures/page.jpg"), "out=pictures/page.jpg is a file"),
    ],
)
def test_a_mistake_ends_in_one_line_and_exit_code_1(trained, home, words, line):
    printed = command_line(*words, cwd=home, expect=1)
    assert line in printed.splitlines()[-1]
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    "name",
    ["Photos (1)", "it's art", "a,b=c", "#1 [x] {y} & ; émoji 🎨", "back\\slash\\", '"', " ", "~home", "plain/1.5"],
)
def test_a_path_means_what_it_says(name):
    word = literal(f"data.root={name}")
    assert str(OverridesParser.create().parse_override(word).value()) == name


@pytest.mark.parametrize("name", ["Drawings (old)", "Children's art", "B&W", "plain"])
def test_a_label_means_what_it_says(name):
    word = literal(f"label={name}")
    assert str(OverridesParser.create().parse_override(word).value()) == name


@pytest.mark.parametrize(
    "word", ["data.root='a b'", "data.root=${x} y", "optimizer.lr=(1)", "-m", "label=[a,(b)]", "data.root=null"]
)
def test_other_words_stay_as_they_are(word):
    assert literal(word) == word


def test_a_folder_that_cannot_be_made_is_said():
    with pytest.raises(UserError, match="out=/dev/null/x cannot be made: Not a directory"):
        runs.make(Path("/dev/null/x"), name="out")


def test_a_muse_that_is_no_picture_is_said(article, tmp_path, home):
    muse = home / "pictures/page.jpg"
    with pytest.raises(UserError, match="holds no picture that can be read"):
        generate(composed("generate", f"ckpt={article}", f"muse={muse}", f"out={tmp_path / 'out'}"))


def test_an_audit_says_what_is_there_and_a_run_on_it_keeps_its_digest(home, trained):
    words = ("data.root=pictures", "data.image_size=32", "seed=5")
    printed = command_line("artdiff.audit", *words, "out=it's (1)", cwd=home)
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
        again = command_line("artdiff.audit", *words, "out=it's (1)", cwd=home, expect=1)
        assert again.splitlines()[-1] == f"out=it's (1) holds {name} already; choose another folder"
        for path in out.glob("*.[tm]*"):
            path.unlink()
    checkpoint = torch.load(trained[0] / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["ArtDataModule"]["manifest"] == digest
    assert json.loads((trained[0] / "metadata.json").read_text())["data"]["manifest"] == digest


def test_pruning_frees_what_was_not_used(home, tmp_path):
    words = (f"data.root={home}/pictures", f"data.cache_dir={tmp_path}", "run_dir=unused")
    instantiate(composed("train", *words)["data"]).setup()
    prune = ("artdiff.prune", f"cache_dir={tmp_path}")
    assert "kept: 41 files of" in command_line(*prune, cwd=home)
    assert "would be removed: 41 files of" in command_line(*prune, "unused_days=0", "dry_run=true", cwd=home)
    assert list(tmp_path.glob("decoded/*.npy"))
    assert "removed: 41 files of" in command_line(*prune, "unused_days=0", cwd=home)
    assert {path.suffix for path in tmp_path.glob("*/*")} == {".lock"}


def test_nothing_heavy_is_imported_before_the_configuration_is_accepted(home):
    doors = ", ".join(f"artdiff.{door}" for door in ("train", "generate", "audit", "prune"))
    look = f"import sys, {doors}; print([m for m in ('torch', 'lightning') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], cwd=home, text=True, capture_output=True, check=True)
    assert done.stdout == "[]\n"


def test_help_shows_the_command_and_the_choices(home):
    printed = command_line(TRAIN, "--help", cwd=home)
    assert "python -m artdiff.train experiment=baseline data.root=DIR" in printed
    assert "experiment: article, baseline" in printed
