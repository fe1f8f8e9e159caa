"""The page in a browser: what somebody does who does not type."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import composed, in_a_browser, picture, small, train
from PIL import Image
from playwright.sync_api import expect
from test_vetting import of_colours

from artdiff import UserError, origin
from artdiff.ingest import sample_art
from artdiff.settings.sharing import GallerySettings
from artdiff.web.studio import Studio, command, comparable
from artdiff.web.training import Training
from artdiff.web.work import Stopped, reported

pytestmark = pytest.mark.slow

expect.set_options(timeout=60_000)  # the machine may be busy

TINY = ("network=unet", "network.channels=[32,32]", "network.cond_dim=16", "scheduler=null", "data.image_size=16")


@pytest.fixture(scope="module")
def home(art, tmp_path_factory):
    """A folder with a painter and a reconstruction that have learned next to nothing."""
    folder = tmp_path_factory.mktemp("home")
    train(small(art, folder / "runs/copier", "data.image_size=16", "loss=mse"))
    train(small(art, folder / "runs/painter", "task=generation", *TINY))
    return folder


def settings(home, *words):
    asked = (f"runs_dir={home / 'runs'}", f"out={home / 'pictures'}", "device=cpu", "open=false", *words)
    return GallerySettings.of(composed("gallery", *asked))


@pytest.fixture(scope="module")
def address(home):
    """Where the page of these runs is served, by the command itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("runs_dir=runs", "out=pictures", "device=cpu", "open=false", f"port={port}", "upload_megabytes=1")
    served = subprocess.Popen(
        [sys.executable, "-m", "artdiff.gallery", *words], cwd=home, stderr=subprocess.PIPE, text=True
    )
    for line in served.stderr:
        if "in a browser" in line:
            break
    else:
        pytest.fail("the page is not served")
    yield f"http://127.0.0.1:{port}"
    served.send_signal(signal.SIGINT)
    assert served.wait(60) == 0


@pytest.fixture
def page(browser, address):
    """The page, as it is when it was just opened; nothing may be fetched from elsewhere."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.get_by_role("button", name="Paint", exact=True).wait_for()
    expect(page.get_by_label("Run", exact=True).first).to_have_value(re.compile("painter"))
    yield page
    page.close()
    assert all(url.startswith((address, "data:", "blob:")) for url in asked), asked


def status(page):
    return page.get_by_label("Status").first


def paint(page, expected="done"):
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(status(page)).to_have_value(re.compile(f"^{expected}"), timeout=60_000)


def more_settings(page):
    """Open them. Gradio puts a field of theirs back to its value in the first milliseconds, faster than any person."""
    page.get_by_text("More settings").first.click()
    page.wait_for_timeout(1000)


def steps(page, number):
    more_settings(page)
    page.get_by_label("number input for Steps").fill(str(number))


@in_a_browser
def test_it_paints_and_says_how_to_paint_again(page, home):
    before = set((home / "pictures").iterdir())
    page.get_by_label("number input for Pictures of each label").fill("2")
    paint(page, "done: 10")
    made = set((home / "pictures").iterdir()) - before
    assert len(made) == 10
    page.locator(".grid-wrap button").first.click()
    again = page.locator("#again textarea, #again input")
    expect(again).to_have_value(re.compile("artdiff.generate ckpt=.*painter label=colour_field n=1 seed=0 "))


@in_a_browser
def test_a_muse_is_seen_and_a_broken_one_is_a_sentence(page, home, tmp_path):
    picture(1, (64, 48)).save(tmp_path / "mine.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff" + bytes(100))
    page.get_by_text("Start from a picture of yours").click()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "broken.jpg")
    expect(page.get_by_text("broken.jpg cannot be used")).to_be_visible()
    page.get_by_role("button", name="Clear").first.click()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "mine.jpg")
    expect(page.locator("#muse img")).to_be_visible()
    page.get_by_label("number input for Pictures of each label").fill("1")
    before = set((home / "pictures").iterdir())
    paint(page, "done: 1")
    (made,) = set((home / "pictures").iterdir()) - before
    assert origin.settings_of(made)["strength"] == 0.6


@in_a_browser
def test_a_large_upload_is_refused(page, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    page.get_by_text("Start from a picture of yours").click()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "large.png")
    expect(page.get_by_text("exceed the maximum allowed size").first).to_be_visible()


@in_a_browser
def test_files_of_the_machine_are_not_served(page, address, home):
    for path in (home / "runs/painter/config.yaml", home / "runs/painter/checkpoints/last.ckpt", Path("/etc/passwd")):
        assert page.request.get(f"{address}/gradio_api/file={path}").status in (403, 404)


@in_a_browser
def test_cancel_ends_it(page, home):
    page.get_by_label("number input for Pictures of each label").fill("64")
    steps(page, 100)
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(status(page)).to_have_value(re.compile("^painting"))
    page.get_by_role("button", name="Cancel").first.click()
    expect(status(page)).to_have_value("cancelled")
    page.wait_for_timeout(1000)  # until the page knows that the job has ended
    page.get_by_label("number input for Pictures of each label").fill("1")
    page.get_by_label("number input for Steps").fill("2")
    paint(page, "done: 5")  # the model is free again


@in_a_browser
def test_a_mistake_is_a_sentence(page):
    more_settings(page)
    page.get_by_label("Size").fill("17x16")
    page.get_by_role("button", name="Paint", exact=True).click()
    expect(page.get_by_text("width and height in size must be multiples of 2")).to_be_visible()


@in_a_browser
def test_the_keyboard_is_enough(page):
    page.get_by_label("number input for Pictures of each label").focus()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("1")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText") == "Paint":
            break
    else:
        pytest.fail("the button is not reached")
    page.keyboard.press("Enter")
    expect(status(page)).to_have_value(re.compile("^done: 5"), timeout=60_000)


@in_a_browser
@pytest.mark.parametrize("tab", ["Paint", "Compare", "Painted before", "Your folder", "Report"])
def test_a_narrow_screen_shows_everything(page, tab):
    page.set_viewport_size({"width": 360, "height": 740})
    page.reload()
    page.get_by_role("button", name="Paint", exact=True).wait_for()
    page.wait_for_timeout(1000)
    menu = page.locator(".overflow-menu > button")  # of the tabs that do not fit
    menu.click()
    listed = page.locator(".overflow-dropdown button", has_text=re.compile(f"^{tab}$"))
    if listed.count():
        listed.click()
    else:
        menu.click()
        page.get_by_role("tab", name=tab, exact=True).click()
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@in_a_browser
def test_what_was_painted_is_found_again(page):
    page.get_by_label("number input for Pictures of each label").fill("1")
    paint(page, "done")
    page.get_by_role("tab", name="Painted before").click()
    page.get_by_role("button", name="Look again").click()
    page.locator(".grid-wrap:visible button").first.click()
    expect(page.locator("#once_more textarea, #once_more input")).to_have_value(
        re.compile(r"artdiff\.generate from=pictures/\S+\.png")
    )


@in_a_browser
def test_two_runs_are_compared(page):
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("number input for Pictures of each label").last.fill("1")
    page.get_by_role("button", name="Paint with both").click()
    expect(page.get_by_label("Status").last).to_have_value(re.compile("^B: done: 5"), timeout=60_000)


@in_a_browser
def test_a_folder_is_looked_into_and_trained_on(page, art, home):
    page.get_by_role("tab", name="Your folder").click()
    page.get_by_label("Folder").fill(str(art))
    page.get_by_role("button", name="Look into the folder").click()
    expect(page.get_by_text("memorise them and paint copies")).to_be_visible()
    page.get_by_label("Minutes of training").fill("30")
    page.get_by_role("button", name="Start training").click()
    log = page.get_by_label("Training", exact=True)
    expect(log).to_have_value(re.compile("running"))
    until(lambda: any((home / "runs").glob("paint32/*/checkpoints/last.ckpt")))
    page.get_by_role("button", name="Stop and save").click()
    expect(log).to_have_value(re.compile("exit code 130; it can be resumed"), timeout=90_000)
    shutil.rmtree(home / "runs/paint32")  # the other tests expect the painter to be the newest


def until(found, seconds=90):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.2)


@in_a_browser
def test_a_report_is_shown_or_asked_for(page, home):
    page.get_by_role("tab", name="Report").click()
    page.get_by_role("button", name="Show its report").click()
    expect(page.get_by_text("this run was not evaluated yet")).to_be_visible()
    folder = home / "runs/painter/evaluation"
    folder.mkdir()
    (folder / "report.html").write_text("<h1>What this model is</h1>")
    page.get_by_role("button", name="Show its report").click()
    expect(page.frame_locator("iframe[title=report]").get_by_role("heading")).to_have_text("What this model is")
    shutil.rmtree(folder)


def test_others_need_a_password(home):
    with pytest.raises(UserError, match=r"host=0\.0\.0\.0 lets others open the page: give a password"):
        settings(home, "host=0.0.0.0")
    assert settings(home, "host=0.0.0.0", "password=secret").password == "secret"


def test_runs_that_paint_come_first(home):
    assert [Path(run).name for run in Studio(settings(home)).runs()] == ["painter", "copier"]
    asked = Studio(settings(home, f"ckpt={home / 'runs/copier'}"))
    assert [Path(run).name for run in asked.runs()] == ["copier", "painter"]


@pytest.mark.parametrize("run", ["/etc/passwd", "runs/none", "hf://me/model"])
def test_only_runs_that_are_offered_are_loaded(home, run):
    with pytest.raises(UserError, match="not one of the runs that this page offers"):
        Studio(settings(home)).painter(run)


def test_a_visitor_ends_what_is_painted_for_them_alone(home):
    studio = Studio(settings(home))
    asked = {"label": "truchet", "n": 50, "steps": 50}
    mine = studio.paint(str(home / "runs/painter"), asked, visitor="me")
    next(mine)
    studio.cancel("somebody else")
    next(mine)
    studio.cancel("me")
    assert list(mine)[-1].status == "cancelled"
    *_, shown = studio.paint(str(home / "runs/painter"), {"label": "truchet", "n": 1, "steps": 2})
    assert shown.status.startswith("done")


def test_sheets_and_strips_are_not_listed_as_pictures(home):
    studio = Studio(settings(home))
    for name in ("sheet", "sheet_2", "truchet_0_trajectory", "truchet_0_trajectory_2", "truchet_0"):
        origin.save(picture(1), studio.out / f"{name}.png", origin.Origin({"seed": 0}))
    names = {path.stem for path in studio.painted()}
    assert "truchet_0" in names
    assert not [name for name in names if "sheet" in name or "trajectory" in name]


def test_a_model_is_loaded_once_and_few_are_kept(home):
    studio = Studio(settings(home))
    first, second = studio.runs()
    assert studio.painter(first) is studio.painter(first)
    studio.painter(second)
    assert len(studio.loaded) == 2
    with pytest.raises(UserError, match="choose a run first"):
        studio.painter(None)


def test_the_command_paints_the_same_picture(home, tmp_path):
    studio = Studio(settings(home))
    *_, shown = studio.paint(str(home / "runs/painter"), {"label": "truchet", "n": 1, "seed": 4, "steps": 2})
    (made,) = shown.made
    words = made.command.split("artdiff.generate ")[1].split()
    words = [word.strip("'") for word in words if not word.startswith("out=")]
    from conftest import generate

    path, _ = generate(composed("generate", *words, f"out={tmp_path}", "device=cpu"))
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(made.path)))


def test_a_command_for_a_picture_from_a_muse_names_it():
    told = {"label": None, "seed": 1, "muse": "mine.jpg"}
    assert command(Path("pictures/a.png"), told, run="runs/x", out="out").endswith(
        "from=pictures/a.png muse=mine.jpg out=out"
    )


def test_work_that_nobody_listens_to_ends():
    ended = []

    def work(report):
        try:
            while True:
                report(1)
                time.sleep(0.01)
        except Stopped:
            ended.append(True)
            raise

    listening = reported(work)
    assert next(listening) == 1
    listening.close()
    until(lambda: ended == [True])


def test_an_error_in_the_work_is_raised_where_it_is_seen():
    def work(report):
        report(1)
        raise UserError("no")

    listening = reported(work)
    assert next(listening) == 1
    with pytest.raises(UserError, match="no"):
        next(listening)


@pytest.mark.parametrize(
    ("folder", "experiment", "minutes", "message"),
    [
        ("", "paint32", 1, "an empty name is not a folder"),
        ("/nowhere", "paint32", 1, "/nowhere is not a folder"),
        (".", "other", 1, "experiment must be one of"),
        (".", "paint32", 0, "minutes must be more than 0"),
    ],
)
def test_a_training_that_cannot_start_is_one_line(tmp_path, folder, experiment, minutes, message):
    with pytest.raises(UserError, match=message):
        Training(tmp_path).start(folder, experiment, minutes)


def test_there_is_nothing_to_stop_or_to_carry_on(tmp_path):
    training = Training(tmp_path)
    with pytest.raises(UserError, match="no training runs"):
        training.stop()
    with pytest.raises(UserError, match="no training to resume"):
        training.carry_on()
    assert json.dumps(training.status()) == '[false, "no training was started here", null, null]'


def test_a_training_is_told_to_end_once(tmp_path):
    training, sent = Training(tmp_path), []
    training.process = SimpleNamespace(poll=lambda: None, send_signal=sent.append, wait=lambda: 130)
    training.run = tmp_path / "run"
    training.stop()
    training.stop()
    training.end()
    assert sent == [signal.SIGINT]  # at a second one it would end without saving
    training.process.poll = lambda: 130
    assert training.status().text.endswith("ended with exit code 130; nothing was saved")


def test_few_step_models_are_compared_as_they_are_made_for():
    usual = comparable(SimpleNamespace(made_for={}))
    assert set(usual) == {"steps", "solver", "spacing", "guidance"}
    few = comparable(SimpleNamespace(made_for={"steps": 4, "solver": "euler"}))
    assert few == usual | {"steps": 4, "solver": "euler"}


def test_what_an_evaluation_finds_counts_at_once(home, tmp_path, monkeypatch):
    run = shutil.copytree(home / "runs/painter", tmp_path / "runs/painter")
    studio = Studio(settings(home, f"runs_dir={tmp_path / 'runs'}", f"out={tmp_path / 'out'}"))
    monkeypatch.setattr("artdiff.web.studio.Vetting", lambda *of: object())
    before = studio._loaded(str(run))
    assert studio._loaded(str(run)) is before
    (run / "evaluation").mkdir()
    (run / "evaluation/originality.npz").touch()
    assert studio._loaded(str(run)) is not before


def test_nothing_is_kept_of_visitors_that_are_gone(home):
    studio = Studio(settings(home))
    list(studio.paint(str(home / "runs/painter"), {"label": "truchet", "n": 1, "steps": 2}, visitor="me"))
    assert not studio.jobs


def asked_of(studio, run, **words):
    return list(studio.paint(str(run), {"label": "truchet", "n": 3, "steps": 2, **words}))


def test_what_is_refused_is_counted_and_never_shown(home, tmp_path):
    model = of_colours(tmp_path / "it.onnx")
    studio = Studio(settings(home, f"refuse.model={model}", "refuse.above=0.001", f"out={tmp_path / 'out'}"))
    shown = asked_of(studio, home / "runs/painter")
    assert not any(one.emerging or one.made for one in shown)
    assert "3 held back" in shown[-1].status
    assert len(list((tmp_path / "out/held_back").glob("*.png"))) == 3
    assert studio.painted() == []
    with pytest.raises(UserError, match="refuse.model="):
        Studio(settings(home, f"refuse.model={home / 'runs/painter/metadata.json'}"))


def test_a_model_that_knows_words_has_a_prompt(home, tmp_path):
    sample_art.paint(tmp_path / "art", per_style=4, seed=0, captions=True)
    more = ("trainer.max_steps=8", "optimizer.lr=0.02", "task.warmup=0", "data.captions=auto")
    run = train(small(tmp_path / "art", tmp_path / "runs/worded", "task=generation", *TINY, *more)).folder
    studio = Studio(settings(home, f"runs_dir={tmp_path / 'runs'}", f"out={tmp_path / 'out'}"))
    made = [asked_of(studio, run, label="none", prompt=prompt)[-1].made for prompt in ("hills", "strokes")]
    assert [one.title for one in made[0]] == ["hills 0", "hills 1", "hills 2"]
    assert "prompt=hills" in made[0][0].command
    one, other = (Image.open(some[0].path).tobytes() for some in made)
    assert one != other
    shown = asked_of(studio, run, label="none", prompt="xyzzy")[-1]
    assert "xyzzy is no word that the model has learned" in shown.status
