"""A model is scored on pictures that it was not trained on; what was computed is not computed again."""

import base64
import io
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import yaml
from conftest import in_process, small, train
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.models import vgg16

import artdiff
from artdiff import UserError
from artdiff.evaluation import features, samples
from artdiff.painter import Painter

PAINTS = ("task=generation", "network=unet", "network.channels=[16,32]", "network.cond_dim=16", "scheduler=null")
WORDS = (
    *PAINTS,
    "data.image_size=16",
    "loss=mse",
    "callbacks.grids=null",
    "data.batch_size=8",
    "data.val_fraction=0.4",
)
QUICK = {"n": 12, "steps": 2, "bootstrap": 3}


@pytest.fixture(scope="module")
def run(art, tmp_path_factory):
    return train(small(art, tmp_path_factory.mktemp("painter") / "run", *WORDS))


@pytest.fixture(scope="module")
def scored(run):
    return artdiff.evaluate(run, weights=["averaged", "raw"], **QUICK)


def test_a_painter_is_scored_beside_the_floor(run, scored):
    assert [(one.set, one.label, one.count) for one in scored.scored] == [
        ("averaged weights", None, 12), ("raw weights", None, 12), ("training pictures", None, 12)
    ]  # fmt: skip
    painted, _, floor = scored.scored
    assert painted.frechet.low < painted.frechet.value < painted.frechet.high
    assert painted.frechet.value > floor.frechet.value  # two steps of training
    assert painted.manifold.precision <= floor.manifold.precision
    assert {one.features for one in scored.scored} == {"random_vgg16"}
    content = json.loads((run.folder / "evaluation/scores.json").read_text())
    assert content["scores"][0]["frechet"]["value"] == painted.frechet.value
    assert content["protocol"]["painted"]["guidance"] == 1.0
    assert content["protocol"]["data"]["manifest"] == run.metadata["data"]["manifest"]
    board = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    (shown,) = board.Scalars("evaluation/frechet/random_vgg16/averaged_weights")
    assert shown.value == pytest.approx(painted.frechet.value)


def test_a_second_call_paints_and_sees_nothing_again(run, scored, monkeypatch):
    monkeypatch.setattr(Painter, "fill", lambda *_: pytest.fail("painted again"))
    monkeypatch.setattr(features, "_pooled", lambda *_: pytest.fail("seen again"))
    assert artdiff.evaluate(run, weights=["averaged", "raw"], **QUICK).scored == scored.scored


def test_what_was_interrupted_goes_on(run, monkeypatch, tmp_path):
    fill, painted = Painter.fill, []

    def until(count):
        def paints(self, rows, settings):
            for number, painting in enumerate(fill(self, rows, settings)):
                if number == count:
                    raise KeyboardInterrupt
                painted.append(painting.settings["seed"])
                yield painting

        return paints

    out = {"out": str(tmp_path / "out"), "seed": 100, **QUICK}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Painter, "fill", until(5))
        artdiff.evaluate(run, **out)
    monkeypatch.setattr(Painter, "fill", until(100))
    found = artdiff.evaluate(run, **out).scored
    assert painted == list(range(100, 112))
    shutil.rmtree(run.folder / "evaluation/kept")
    assert artdiff.evaluate(run, **out).scored == found


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.text += text


def test_the_report_is_one_page_that_needs_nothing_else(run, scored):
    text = (run.folder / "evaluation/report.html").read_text()
    page = Page(text)
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(pictures) == 2
    for picture in pictures:
        assert picture["alt"]
        kind, content = picture["src"].split(";base64,")
        assert kind == "data:image/jpeg"
        with Image.open(io.BytesIO(base64.b64decode(content))) as shown:
            assert shown.size == (int(picture["width"]), int(picture["height"]))
    tags = [tag for tag, _ in page.elements]
    assert tags.count("h1") == 1
    assert not {"script", "link", "iframe"} & set(tags)
    assert "http" not in text.replace("http-equiv", "")
    for one in scored.scored:
        assert f"{one.frechet.value:.4g}" in page.text
    assert "One row for each class: colour_field, " in page.text
    assert str(run.folder) not in text
    assert page.text.count("suspiciously near") == 2


def test_the_command_prints_a_table(run, scored, tmp_path):
    words = (f"ckpt={run.folder}", "n=12", "steps=2", "bootstrap=3")
    printed = in_process("artdiff.evaluate", *words, cwd=tmp_path)
    assert "Fréchet" in printed
    refused = in_process("artdiff.evaluate", *words, "features=[vgg16]", "feature_weights.vgg16=gone", cwd=tmp_path,
                         expect=1)  # fmt: skip
    assert "gone is no file" in refused
    assert f"written: {run.folder}/evaluation/scores.json" in printed


def test_labels_are_painted_in_proportion():
    labels = torch.tensor([0] * 60 + [1] * 30 + [-1] * 10)
    assert samples.shares(labels, 10) == [(-1, 1), (0, 6), (1, 3)]
    assert sum(count for _, count in samples.shares(labels, 7)) == 7


def test_a_label_of_enough_pictures_is_scored_by_itself(run, monkeypatch, tmp_path):
    monkeypatch.setattr("artdiff.evaluation.scores.LEAST", 2)
    found = artdiff.evaluate(run, out=str(tmp_path / "out"), n=20, steps=1, bootstrap=0).scored
    assert "NaN" not in (tmp_path / "out/scores.json").read_text()
    assert {one.label for one in found} >= {None, "truchet", "engraving"}
    assert all(one.count == sum(part.count for part in found if (part.set, part.label) == (one.set, one.label))
               for one in found if one.label)  # fmt: skip


def test_another_folder_is_compared_with(run, tmp_path, caplog):
    from artdiff.ingest import sample_art

    sample_art.paint(tmp_path / "other", per_style=6, seed=9)
    found = artdiff.evaluate(run, data={"root": str(tmp_path / "other")}, out=str(tmp_path / "out"), **QUICK)
    assert found.protocol["data"]["manifest"] != run.metadata["data"]["manifest"]
    assert not found.originality  # whether the pictures of the run were copied cannot be said
    assert "copies are not looked for" in caplog.text


def test_a_reconstruction_has_psnr_and_ssim(art, tmp_path):
    run = train(small(art, tmp_path / "run", "data.image_size=16", "loss=mse", "data.val_fraction=0.3",
                      "data.batch_size=16"))  # fmt: skip
    found = artdiff.evaluate(run)
    validated = run.metadata["scores"]
    assert found.reconstruction["psnr"] == pytest.approx(validated["val/psnr"], abs=1e-3)
    assert found.reconstruction["ssim"] == pytest.approx(validated["val/ssim"], abs=1e-4)
    assert "psnr: " in str(found)


def test_vgg16_of_a_file_is_named_with_its_digest(run, tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "vgg.pth"
    torch.save(vgg16(init_weights=False).features[:12].state_dict(), weights)
    how = {"features": ["random_vgg16", "vgg16"], "feature_weights": {"vgg16": str(weights)}}
    found = artdiff.evaluate(run, out=str(tmp_path / "out"), **how, **QUICK)
    assert [one.features for one in found.scored] == ["random_vgg16"] * 2 + ["vgg16"] * 2
    assert found.protocol["features"]["vgg16"].startswith("vgg.pth (SHA-256 ")


def test_inception_reads_a_file(tmp_path, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    network = features.FIDELITY["inception"]
    with torch.device("meta"):
        monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: None)
        monkeypatch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        empty = inception.FeatureExtractorInceptionV3(*network[:1], [network[1]])
    monkeypatch.undo()
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.rand(value.shape, generator=generator) / 100 if value.is_floating_point() else
             torch.zeros(value.shape, dtype=value.dtype) for name, value in empty.state_dict().items()}  # fmt: skip
    torch.save(state, tmp_path / "inception.pth")
    loaded = features.load("inception", str(tmp_path / "inception.pth"), torch.device("cpu"))
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8))
    assert loaded.run(image).shape == (2, 2048)
    assert loaded.source.startswith("inception.pth (SHA-256 ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": ["vgg"]}, "features must be random_vgg16 or vgg16 or inception or clip or dinov2, got vgg"),
        ({"features": []}, r"features must be a list, such as \[random_vgg16\], got \[\]"),
        ({"weights": ["ema"]}, "weights must be averaged or raw, got ema"),
        ({"n": 1}, "n must be a whole number of at least 2, got 1"),
        ({"feature_weights": {"inception": "none"}, "features": ["inception"]}, "inception=none is no file"),
        ({"feature_weights": {"random_vgg16": "x"}}, "its weights are random"),
        ({"data": {"root": "nowhere"}}, "data.root=nowhere does not exist"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
    ],
)
def test_mistakes_are_one_line(run, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        artdiff.evaluate(run, **settings)
    assert "\n" not in str(caught.value)


def test_a_run_whose_data_names_foreign_code_is_refused(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    hostile = {"_target_": "os.mkdir", "path": str(tmp_path / "made")}
    nested = {name: value for name, value in config["data"].items() if name != "_recursive_"} | {"limits": hostile}
    for changed in (hostile, config["data"] | {"source": hostile}, nested):
        (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(config | {"data": changed}))
        with pytest.raises(
            UserError, match="names code outside artdiff for its data: pass trust_code|is not a setting"
        ):
            artdiff.evaluate(tmp_path / "run")
    assert not (tmp_path / "made").exists()


def test_a_file_alone_needs_a_folder_and_pictures(run, tmp_path):
    alone = tmp_path / "model.ckpt"
    alone.write_bytes(run.last.read_bytes())
    with pytest.raises(UserError, match="is not in a run's folder: give out=DIR"):
        artdiff.evaluate(alone)
    with pytest.raises(UserError, match="does not say which pictures it was trained on: give data.root=DIR"):
        artdiff.evaluate(alone, out=str(tmp_path / "out"))
