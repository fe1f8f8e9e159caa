"""Pictures that a classifier of the user's refuses are held back, counted and kept to be looked at on purpose."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from conftest import composed, generate, small, train
from onnx import TensorProto, helper
from PIL import Image

from artdiff import UserError
from artdiff.classifier import Classifier, Verdict
from artdiff.settings.base import defaults
from artdiff.settings.passing import PassingSettings, RefuseSettings, SignSettings
from artdiff.vetting import Vetting

ONE = TensorProto.FLOAT


def saved(path, nodes, output, *, sides=("H", "W"), channels=3, constants=()):
    """A model of these nodes from `picture` to `output`."""
    shape = helper.make_tensor_value_info("picture", ONE, [1, channels, *sides])
    result = helper.make_tensor_value_info(output, ONE, None)
    graph = helper.make_graph(nodes, "tested", [shape], [result], list(constants))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def of_colours(path, **how):
    """Three scores: how red, green and blue a picture is."""
    return saved(
        path, [helper.make_node("ReduceMean", ["picture"], ["scores"], axes=[2, 3], keepdims=0)], "scores", **how
    )


def detector(path):
    """Boxes of a detector: four numbers, then as scores the colours of each pixel of a picture of 8 px."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [1, 3, 64])
    box = helper.make_tensor("box", ONE, [1, 4, 64], np.full(256, 9.0))
    nodes = [helper.make_node("Reshape", ["picture", "shape"], ["colours"]),
             helper.make_node("Concat", ["box", "colours"], ["boxes"], axis=1)]  # fmt: skip
    return saved(path, nodes, "boxes", sides=(8, 8), constants=[shape, box])


def settings(model, *words):
    given = [f"refuse.model={model}", *words]
    return RefuseSettings.of(composed("generate", "out=unused", "ckpt=unused", *given)["refuse"])


RED, GREY = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), (60, 60, 60))


def test_scores_refuse_from_a_threshold_on(tmp_path):
    classifier = Classifier(settings(of_colours(tmp_path / "it.onnx")))
    assert classifier.refused(RED) == Verdict(0, 1.0)
    assert classifier.refused(GREY) is None
    assert classifier.judge(GREY).score == pytest.approx(60 / 255, rel=1e-3)


def test_only_the_wanted_outputs_count(tmp_path):
    model = of_colours(tmp_path / "it.onnx")
    assert Classifier(settings(model, "refuse.outputs=[1,2]")).refused(RED) is None
    with pytest.raises(UserError, match="has outputs 0 to 2"):
        Classifier(settings(model, "refuse.outputs=[3]"))


def test_pictures_are_normalised_and_logits_become_probabilities(tmp_path):
    model = of_colours(tmp_path / "it.onnx")
    moved = Classifier(settings(model, "refuse.mean=[0.5,0.5,0.5]", "refuse.std=[0.25,0.5,0.5]"))
    assert moved.judge(RED).score == pytest.approx(2.0)
    soft = Classifier(settings(model, "refuse.logits=true"))
    assert soft.judge(RED).score == pytest.approx(np.e / (np.e + 2))


def test_a_single_logit_becomes_a_probability_and_no_number_is_refused(tmp_path):
    nodes = [helper.make_node("ReduceMean", ["picture"], ["score"], axes=[1, 2, 3], keepdims=0),
             helper.make_node("Unsqueeze", ["score", "axis"], ["scores"])]  # fmt: skip
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    one = saved(tmp_path / "one.onnx", nodes, "scores", constants=[axis])
    assert Classifier(settings(one, "refuse.logits=true")).judge(Image.new("RGB", (8, 8))).score == pytest.approx(0.5)
    nan = saved(tmp_path / "nan.onnx", [*nodes[:1], helper.make_node("Log", ["minus"], ["no"]),
                                        helper.make_node("Add", ["score", "no"], ["sum"]),
                                        helper.make_node("Unsqueeze", ["sum", "axis"], ["scores"])], "scores",
                constants=[axis, helper.make_tensor("minus", ONE, [1], [-1.0])])  # fmt: skip
    assert Classifier(settings(nan)).refused(GREY) is not None
    with pytest.raises(UserError, match="refuse.mean must be three numbers"):
        settings(one, "refuse.mean=[0,0,0,0]")


def test_a_score_that_is_no_number_refuses_among_others(tmp_path):
    classifier = Classifier(settings(of_colours(tmp_path / "it.onnx")))
    classifier._scores = lambda answer: np.array([0.1, np.nan, 0.2])
    assert classifier.refused(RED) is not None


def test_a_detector_refuses_by_its_strongest_box(tmp_path):
    spot = Image.new("RGB", (8, 8))
    spot.putpixel((3, 4), (0, 204, 0))
    assert Classifier(settings(detector(tmp_path / "it.onnx"))).refused(spot) == Verdict(1, pytest.approx(0.8))


def test_boxes_as_rows_are_refused(tmp_path):
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [1, 24, 8])
    nodes = [helper.make_node("Reshape", ["picture", "shape"], ["boxes"])]
    model = saved(tmp_path / "it.onnx", nodes, "boxes", sides=(8, 8), constants=[shape])
    with pytest.raises(UserError, match=r"is \(1, 24, 8\), which looks like the boxes \(1,N,5\+K\) of YOLOv5"):
        Classifier(settings(model))


def test_a_small_detector_may_have_as_many_boxes_as_rows(tmp_path):
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [1, 84, 84])  # 8x8 + 4x4 + 2x2 boxes at 64 px
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["boxes"])]
    model = saved(tmp_path / "it.onnx", nodes, "boxes", sides=(64, 64), constants=[shape])
    assert Classifier(settings(model)).judge(Image.new("RGB", (8, 8))).score == 0


@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize("value", ["[0.5,0.5]", "0.5", "[]"])
def test_a_number_for_each_channel_is_asked_for(name, value, tmp_path):
    with pytest.raises(UserError, match=rf"^refuse\.{name} must be three numbers, such as \[0.5,0.5,0.5\], got "):
        settings(of_colours(tmp_path / "it.onnx"), f"refuse.{name}={value}")


def test_holding_back_needs_a_run_and_then_its_evaluation(tmp_path):
    asked = PassingSettings(originality=True, hold_back=True, refuse=RefuseSettings.of(defaults("generate")["refuse"]),
                            sign=SignSettings.of(defaults("generate")["sign"]))  # fmt: skip
    for path, message in (
        (
            "model/model.safetensors",
            "and model/model.safetensors is in none: set ckpt=RUN",
        ),
        (tmp_path / "run/checkpoints/best.ckpt", "needs an evaluated run: .*artdiff.evaluate ckpt=RUN"),
    ):
        with pytest.raises(UserError, match=message):
            Vetting(SimpleNamespace(path=Path(path)), asked)


def test_a_wide_picture_is_fitted_without_distortion(tmp_path):
    classifier = Classifier(settings(of_colours(tmp_path / "it.onnx")))
    assert classifier.judge(Image.new("RGB", (64, 32), "red")).score == pytest.approx(0.5, abs=0.01)


def test_what_is_no_classifier_is_one_line(tmp_path):
    (tmp_path / "no.onnx").write_text("no model")
    with pytest.raises(UserError, match=r"^refuse\.model=.*no\.onnx cannot be used: it is no ONNX model .*$"):
        Classifier(settings(tmp_path / "no.onnx"))
    with pytest.raises(UserError, match=r"it takes picture \[1, 1, .*, expected \(1,3,H,W\)"):
        Classifier(settings(of_colours(tmp_path / "grey.onnx", channels=1)))
    same = saved(tmp_path / "same.onnx", [helper.make_node("Identity", ["picture"], ["scores"])], "scores")
    with pytest.raises(UserError, match=r"its first output is \(1, 3, 224, 224\)"):
        Classifier(settings(same))
    with pytest.raises(UserError, match=r"refuse\.model=.* does not exist"):
        settings(tmp_path / "missing.onnx")


def test_refused_pictures_lie_apart_and_are_grey_on_the_sheet(art, tmp_path, caplog):
    tiny = ("network=unet", "network.channels=[32,32]", "network.cond_dim=16", "scheduler=null", "data.image_size=16")
    train(small(art, tmp_path / "run", "experiment=paint32", *tiny))
    words = ("label=truchet", "n=6", "steps=2", "device=cpu", "refuse.outputs=[0]")
    every = generate(composed("generate", f"ckpt={tmp_path / 'run'}", f"out={tmp_path / 'all'}", *words))
    red = sorted(np.asarray(Image.open(path))[..., 0].mean() / 255 for path in every[:-1])
    threshold = f"refuse.above={(red[3] + red[4]) / 2}"
    model = f"refuse.model={of_colours(tmp_path / 'it.onnx')}"
    caplog.set_level("WARNING")
    written = generate(
        composed("generate", f"ckpt={tmp_path / 'run'}", f"out={tmp_path / 'some'}", *words, threshold, model)
    )
    assert [path.parent.name for path in written[:-1]].count("held_back") == 2
    assert "2 held back, grey on the sheet" in caplog.text and "output 0 of the classifier is" in caplog.text
    with Image.open(every[-1]) as whole, Image.open(written[-1]) as sheet:
        cells = [np.asarray(one).reshape(64, 6, 64, 3).swapaxes(0, 1) for one in (whole, sheet)]
    same = [np.array_equal(one, other) for one, other in zip(*cells, strict=True)]
    assert same.count(True) == 4
    assert all((other[0, 0] == 128).all() for other, alike in zip(cells[1], same, strict=True) if not alike)


def test_a_reconstruction_is_vetted_too(art, tmp_path):
    train(small(art, tmp_path / "copier", "loss=mse", "data.image_size=16"))
    words = (
        f"muse={art / 'truchet'}",
        "device=cpu",
        f"refuse.model={of_colours(tmp_path / 'it.onnx')}",
        "refuse.above=0.01",
    )
    written = generate(composed("generate", f"ckpt={tmp_path / 'copier'}", f"out={tmp_path / 'out'}", *words))
    assert {path.parent.name for path in written[:-1]} == {"held_back"}
