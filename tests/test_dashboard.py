"""What TensorBoard shows of a run, and in which order."""

import io
import re

import numpy as np
import pytest
from conftest import picture, small, train
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from artdiff import images, runs
from artdiff.training.dashboard import GLANCE, TensorBoardLogger

PAINTS = ("task=generation", "network=unet", "network.channels=[32,32]", "network.cond_dim=16", "scheduler=null",
          "data.image_size=16", "loss.perceptual.weights=random", "callbacks.grids.every_n_steps=1",
          "trainer.max_steps=4", "trainer.log_every_n_steps=1")  # fmt: skip


@pytest.fixture(scope="module")
def board(art, tmp_path_factory):
    """What a painter with the hybrid loss leaves."""
    run = train(small(art, tmp_path_factory.mktemp("run") / "painter", *PAINTS))
    return EventAccumulator(str(run.folder), size_guidance={"tensors": 0, "images": 0}).Reload()


@pytest.mark.slow
def test_loss_speed_and_pictures_come_first(board):
    names = {*board.Tags()["scalars"], *board.Tags()["images"]}
    assert min(name.partition("/")[0] for name in names if "/" in name) == GLANCE
    first = {name.partition("/")[2] for name in names if name.startswith(GLANCE)}
    assert first == {"loss", "loss on held-out pictures", "images per second", "pictures"}
    for name, tag in (("loss", "train/loss"), ("loss on held-out pictures", "val/loss")):
        shown, logged = (board.Scalars(one) for one in (f"{GLANCE}/{name}", tag))
        assert [(one.step, one.value) for one in shown] == [(one.step, one.value) for one in logged]


def test_every_chart_has_curves(board):
    content = board.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    charts = [chart for category in Layout.FromString(content).category for chart in category.chart]
    names = board.Tags()["scalars"]
    assert {"perceptual, held-out", "memory, GiB"} <= {chart.title for chart in charts}
    for chart in charts:
        for curve in chart.multiline.tag:
            assert any(re.search(curve, name) for name in names), f"{chart.title}: nothing is called {curve}"


def test_grids_say_what_their_lines_are(board, art):
    shown = Image.open(io.BytesIO(board.Images(f"{GLANCE}/pictures")[0].encoded_image_string))
    classes = len(list(art.iterdir()))
    assert shown.height == classes * (16 + images.CAPTION)
    captions = np.asarray(shown.convert("L")).reshape(classes, -1, shown.width)[:, : images.CAPTION]
    assert (captions.min(axis=(1, 2)) < 100).all() and (np.median(captions, axis=(1, 2)) == 255).all()


def test_a_grid_keeps_its_pixels_under_its_captions():
    grid = picture(1, (40, 32))
    said = images.captioned(grid, ["one", "two"])
    lines = [said.crop((0, top, 40, top + 16)) for top in (images.CAPTION, 2 * images.CAPTION + 16)]
    assert [line.tobytes() for line in lines] == [grid.crop((0, top, 40, top + 16)).tobytes() for top in (0, 16)]
    assert images.captioned(grid, []) is grid


def test_the_data_card_is_there_as_text(board):
    text = board.Tensors("data card/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "## Licences" in text and "truchet" in text


def test_a_run_of_an_earlier_version_goes_on_where_it_was(tmp_path):
    assert TensorBoardLogger(str(tmp_path), name="", version="").log_dir.rstrip("/") == str(tmp_path)
    (tmp_path / runs.EARLIER_EVENTS).mkdir()
    assert TensorBoardLogger(str(tmp_path), name="", version="").log_dir == str(tmp_path / "tensorboard")
