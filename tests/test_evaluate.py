"""A model is scored on pictures that it was not trained on; what was computed is not computed again."""

import base64
import dataclasses
import io
import json
import shutil
from html.parser import HTMLParser
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import composed, in_process, small, train
from hydra.utils import instantiate
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.models import vgg16

import artdiff
from artdiff import UserError, checkpoints, exported, images
from artdiff.evaluation import choosing, features, samples, scoring
from artdiff.files import sha256
from artdiff.ingest.decode import Transform
from artdiff.ingest.rights import rights
from artdiff.origin import COMPOSITE
from artdiff.painter import Painter
from artdiff.runs import Run, StoredSampling
from artdiff.settings.evaluation import EvaluateSettings
from artdiff.tasks.metrics import ReconstructionScores

evaluating = import_module("artdiff.evaluate")

PAINTS = ("task=generation", "network=unet", "network.channels=[16,32]", "network.cond_dim=16", "scheduler=null")
WORDS = (
    *PAINTS,
    "data.image_size=16",
    "loss=mse",
    "callbacks.grids=null",
    "data.batch_size=8",
    "data.val_fraction=0.4",
)
QUICK = {"n": 12, "steps": 2, "solver": "heun", "bootstrap": 3, "representation": 0}


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
    board = EventAccumulator(str(run.folder)).Reload()
    (shown,) = board.Scalars("evaluation/frechet/random_vgg16/averaged_weights")
    assert shown.value == pytest.approx(painted.frechet.value)


def test_a_second_call_paints_and_sees_nothing_again(run, scored, monkeypatch):
    monkeypatch.setattr(Painter, "fill", lambda *_: pytest.fail("painted again"))
    monkeypatch.setattr(features, "pooled", lambda *_, **__: pytest.fail("seen again"))
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
    words = (f"ckpt={run.folder}", "n=12", "steps=2", "bootstrap=3", "representation=0")
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
    monkeypatch.setattr("artdiff.evaluation.scoring.LEAST", 2)
    found = artdiff.evaluate(run, out=str(tmp_path / "out"), n=20, steps=1, bootstrap=0, representation=0).scored
    assert "NaN" not in (tmp_path / "out/scores.json").read_text()
    assert {one.label for one in found} >= {None, "truchet", "engraving"}
    assert all(one.count == sum(part.count for part in found if (part.set, part.label) == (one.set, one.label))
               for one in found if one.label)  # fmt: skip


def test_another_folder_is_compared_with(run, tmp_path, caplog):
    from artdiff.ingest import sample_art

    sample_art.paint(tmp_path / "other", per_style=6, seed=9)
    found = artdiff.evaluate(
        run, data={"root": str(tmp_path / "other")}, out=str(tmp_path / "out"), **QUICK | {"representation": 10}
    )
    assert found.protocol["data"]["manifest"] != run.metadata["data"]["manifest"]
    assert not found.originality  # whether the pictures of the run were copied cannot be said
    assert not found.representation
    assert "no check for copies and preferences" in caplog.text
    assert "the data card" not in (tmp_path / "out/report.html").read_text()
    with pytest.raises(UserError, match="store=true needs the pictures that the run was trained on"):
        artdiff.evaluate(run, data={"root": str(tmp_path / "other")}, compare={"steps": [2]}, store=True, **QUICK)


def test_another_folder_may_be_given_as_a_path(run, tmp_path):
    with pytest.raises(UserError, match=r"data.root=.*nowhere does not exist"):
        artdiff.evaluate(run, data=tmp_path / "nowhere")


def test_a_reconstruction_has_psnr_and_ssim(art, tmp_path):
    run = train(small(art, tmp_path / "run", "data.image_size=16", "loss=mse", "data.val_fraction=0.3",
                      "data.batch_size=16"))  # fmt: skip
    found = artdiff.evaluate(run)
    validated = run.metadata["scores"]
    assert found.reconstruction["psnr"] == pytest.approx(validated["val/psnr"], abs=1e-3)
    assert found.reconstruction["ssim"] == pytest.approx(validated["val/ssim"], abs=1e-4)
    assert "psnr: " in str(found)


def test_psnr_and_ssim_are_those_of_scikit_image():
    from skimage import metrics

    rng = np.random.default_rng(0)
    target = rng.uniform(0.2, 0.8, (3, 48, 40, 3)).astype(np.float32)
    picture = (target + rng.normal(0, [[[[0.02]]], [[[0.05]]], [[[0.1]]]], target.shape)).clip(0, 1).astype(np.float32)
    ours = ReconstructionScores(prefix="")
    ours.update(*(images.unit_to_signed(torch.from_numpy(one).permute(0, 3, 1, 2)) for one in (picture, target)))
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = list(zip(target, picture, strict=True))
    psnr = [metrics.peak_signal_noise_ratio(*pair, data_range=1) for pair in pairs]
    ssim = [metrics.structural_similarity(*pair, data_range=1, channel_axis=2, **gaussian) for pair in pairs]
    assert {name: value.item() for name, value in ours.compute().items()} == {
        "psnr": pytest.approx(np.mean(psnr), abs=1e-3),
        "ssim": pytest.approx(np.mean(ssim), abs=1e-3),
    }


@pytest.mark.parametrize(("entries", "layer"), [(12, "relu3_1"), (14, "relu3_1"), (16, "relu3_3"), (31, "relu3_3")])
def test_vgg16_of_a_file_reaches_as_far_as_that_of_imagenet_if_the_file_does(tmp_path, entries, layer):
    weights = vgg16(init_weights=False).features[:entries].state_dict()
    torch.save({f"features.{name}": torch.zeros_like(value) for name, value in weights.items()}, tmp_path / "vgg.pth")
    network = features.load("vgg16", str(tmp_path / "vgg.pth"), torch.device("cpu"))
    assert network.source.startswith("vgg.pth (SHA-256 ") and f" up to {layer}" in network.source
    found = network.run(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    assert found.shape[1] == 2 * (2 * 64 + 2 * 128 + 256 * int(layer[-1]))


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


@pytest.mark.slow
def test_dinov2_reads_a_file_of_its_authors(tmp_path):
    import timm

    torch.manual_seed(0)
    network = timm.create_model("vit_base_patch14_dinov2", num_classes=0, img_size=224).eval()
    torch.save({**network.state_dict(), "mask_token": torch.zeros(1, 768)}, tmp_path / "dinov2.pth")
    loaded = features.load("dinov2", str(tmp_path / "dinov2.pth"), torch.device("cpu"))
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224), dtype=np.uint8))
    with torch.inference_mode():
        expected = network(images.signed_to_imagenet(images.to_signed(image)))
    torch.testing.assert_close(loaded.run(image), expected, atol=1e-4, rtol=1e-4)
    assert loaded.source.startswith("dinov2.pth (SHA-256 ")


@pytest.mark.parametrize("name", ["inception", "dinov2"])
def test_a_file_of_weights_runs_no_code(tmp_path, name):
    class Hostile:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"a": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(UserError, match=f"the weights of {name} are not available .*Weights only load failed"):
        features.load(name, str(tmp_path / "hostile.pth"), torch.device("cpu"))
    assert not (tmp_path / "ran").exists()


def test_a_damaged_file_of_weights_is_one_line(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "dinov2.pth")
    with pytest.raises(
        UserError, match=r"the weights of dinov2 are not available \(RuntimeError .*\); set feature_weig"
    ):
        features.load("dinov2", str(tmp_path / "dinov2.pth"), torch.device("cpu"))


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
        ({"store": True}, "store=true stores the best of the compared settings: set compare.guidance="),
        ({"compare": {"guidance": 2.0}}, r"compare.guidance must be a list, such as \[2.0\], got 2.0"),
        (
            {"compare": {"solver": ["rk4"]}},
            "compare.solver must be dpm_solver_2m or dpm_solver_3m or euler or heun, got rk4",
        ),
        ({"compare": {"steps": [0]}}, "compare.steps must be a whole number of at least 1, got 0"),
        ({"compare": {"checkpoints": ["gone"]}}, "gone.ckpt does not exist; expected all, or some of best, last"),
        (
            {"compare": {"checkpoints": []}},
            r"compare.checkpoints must be all or a list such as .*, got \[\]",
        ),
        ({"compare": {"checkpoints": ["../best"]}}, "compare.checkpoints must be all or a list such as"),
        ({"lpips": "random"}, "lpips=random would not be LPIPS"),
        ({"representation": 1}, "representation must be 0 or at least 2, got 1"),
        ({"compare": {"gradient": [1]}}, "compare.gradient is not a setting"),
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


def test_a_single_way_to_paint_can_be_stored(own):
    artdiff.evaluate(own, compare={"steps": [3]}, store=True, **QUICK | {"bootstrap": 0})
    assert artdiff.load(own).defaults["steps"] == 3
    content = json.loads((own.folder / "evaluation/scores.json").read_text(), parse_constant=pytest.fail)  # no NaN
    assert content["choices"][0]["frechet"]["low"] is None


def test_a_painter_without_classes_is_looked_at(art, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate(sorted(file for file in art.rglob("*") if file.is_file())):
        shutil.copy(file, flat / f"{number}{file.suffix}")
    plain = train(small(flat, tmp_path / "run", *WORDS))
    found = artdiff.evaluate(plain, **QUICK | {"representation": 10})
    assert [one.name for one in found.representation] == ["looks", "grey pictures"]
    assert found.asked == []


def test_a_checkpoint_in_the_current_folder_paints(run, tmp_path):
    (tmp_path / "model.ckpt").write_bytes(run.last.read_bytes())
    in_process("artdiff.generate", "ckpt=model.ckpt", "n=1", "label=none", "steps=2", "out=painted", cwd=tmp_path)
    assert list((tmp_path / "painted").glob("0*.png"))


def settings_of(*words):
    return EvaluateSettings.of(composed("evaluate", "ckpt=unused", *words))


def test_real_pictures_are_seen_anew_where_they_look_different(art, tmp_path):
    keys, fixed = [], (f"data.root={art}", "data.image_size=16", "data.val_fraction=0.4", "run_dir=unused")
    for word in ("seed=0", "seed=0", "data.fit=pad", "data.background=red", "data.random_crop=8", "data.image_size=32"):
        known = composed("train", *fixed, word)["data"]
        data = instantiate(known)
        data.setup()
        judge = scoring._Judge(None, data, settings_of("device=cpu"), tmp_path)
        keys.append((judge.held_out.key, judge.floor.key))
    assert keys[0] == keys[1]
    assert len(set(keys)) == len(keys) - 1


def test_pictures_for_a_file_alone_are_decoded_as_those_it_was_trained_on(art):
    painter = SimpleNamespace(transform=Transform(16, "pad", (1, 2, 254)))
    data = evaluating._data(settings_of(f"data.root={art}"), None, painter)
    assert data.transform == painter.transform


def test_a_file_alone_knows_its_own_pictures(run, art, tmp_path):
    for number, file in enumerate(sorted(file for file in art.rglob("*") if file.is_file())):
        folder = tmp_path / "art" / ("validation" if number % 4 == 0 else "train") / file.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    content = torch.load(run.last, weights_only=True)
    known = SimpleNamespace(transform=checkpoints.restore(run.last).transform)
    manifest = evaluating._data(settings_of(f"data.root={tmp_path / 'art'}"), None, known).manifest
    asked = {"data": tmp_path / "art", "out": str(tmp_path / "out"), **QUICK | {"bootstrap": 0, "n": 4}}
    for digest, is_own in ((manifest, True), ("another", False)):
        for part in content.values():
            if isinstance(part, dict) and "manifest" in part:
                part["manifest"] = digest
        torch.save(content, tmp_path / "model.ckpt")
        found = artdiff.evaluate(tmp_path / "model.ckpt", **asked)
        assert bool(found.originality) == is_own
        assert ("the data card" in (tmp_path / "out/report.html").read_text()) == is_own


def test_what_is_asked_for_counts_even_if_it_is_the_default(monkeypatch):
    few = SimpleNamespace(made_for={"steps": 4, "solver": "euler"})
    usual = settings_of()
    assert evaluating._with_trained_settings(usual, few, set()).steps == 4
    fitted = evaluating._with_trained_settings(usual, few, {"steps"})
    assert (fitted.steps, fitted.solver) == (usual.steps, "euler")
    monkeypatch.setattr(evaluating, "_evaluate", lambda settings, *, asked: (settings.steps, asked))
    assert artdiff.evaluate("unused", steps=24, n=8) == (24, {"steps", "n"})


def test_the_nearest_training_pictures_are_no_work_of_the_model(run, scored):
    assert rights((run.folder / "evaluation/nearest.png").read_bytes())["made as"] == COMPOSITE


def test_a_file_alone_needs_a_folder_and_pictures(run, tmp_path):
    alone = tmp_path / "model.ckpt"
    alone.write_bytes(run.last.read_bytes())
    with pytest.raises(UserError, match="is not in a run's folder: give out=DIR"):
        artdiff.evaluate(alone)
    with pytest.raises(UserError, match="does not say which pictures it was trained on: set data.root=DIR"):
        artdiff.evaluate(alone, out=str(tmp_path / "out"))


@pytest.fixture
def own(run, tmp_path):
    """A copy of the run, to write into."""
    shutil.copytree(run.folder, tmp_path / "own", ignore=shutil.ignore_patterns("evaluation"))
    return Run(tmp_path / "own")


def test_ways_to_paint_are_compared_and_the_best_is_stored(own, caplog):
    caplog.set_level("INFO")
    compare = {"guidance": [1.0, 3.0], "steps": [1, 4], "solver": ["heun", "euler"]}
    found = artdiff.evaluate(own, compare=compare, store=True, **QUICK)
    assert len(found.choices) == 8
    distances = [one.frechet.value for one in found.choices]
    assert distances == sorted(distances)
    best = found.choices[0]
    assert {one.name: one.calls for one in found.choices}["4 steps, heun, guidance 3"] == 16
    assert {one.name: one.calls for one in found.choices}["1 steps, euler, guidance 1"] == 1
    page = Page((own.folder / "evaluation/report.html").read_text())
    assert all(one.name in page.text for one in found.choices)
    assert [tag for tag, _ in page.elements].count("svg") == 2  # over the calls and over the guidance

    stored = json.loads((own.folder / "painting.json").read_text())
    assert stored["settings"] == best.settings
    assert found.protocol["painted"]["guidance"] == best.settings["guidance"]
    caplog.clear()
    painter = artdiff.load(own)
    assert f"steps={best.settings['steps']}" in caplog.text
    assert "the best of 8 ways to paint" in caplog.text
    painted = painter.paint(n=1, label="none")[0]
    assert painted.settings["steps"] == best.settings["steps"]
    assert painter.paint(n=1, label="none", steps=2)[0].settings["steps"] == 2
    assert "steps" not in artdiff.load(own.best).defaults  # a file is taken as it is


def test_what_is_stored_is_painted_as_it_was_scored(own):
    how = {"guidance_interval": [0.2, 0.8], "refine_steps": 3, "refine_solver": "euler"}
    artdiff.evaluate(own, compare={"steps": [1]}, store=True, originality=False, **how, **QUICK | {"bootstrap": 0})
    assert artdiff.load(own).defaults.items() >= how.items()
    assert artdiff.load(own).paint(n=1, label="none")[0].settings["guidance_interval"] == [0.2, 0.8]


def test_an_exported_model_is_scored_without_its_own_way_to_paint(own, tmp_path, caplog):
    caplog.set_level("INFO")
    state = artdiff.load(own).task.state_dict()
    for folder, steps in (("good", 3), ("bad", 0)):
        stored = StoredSampling("best.ckpt", "", "averaged", {"steps": steps}, "a test")
        (tmp_path / folder).mkdir()
        exported.save_to(tmp_path / folder, checkpoints.described(own.best), state, stored)
    assert artdiff.load(tmp_path / "good").defaults["steps"] == 3
    assert "this run's own settings are used" in caplog.text
    caplog.clear()
    settings = settings_of("device=cpu")
    (candidate,) = choosing.candidates(tmp_path / "good" / exported.MODEL, settings)
    assert choosing.Loader(settings)(candidate).defaults == {}
    assert "own settings are used" not in caplog.text
    with pytest.raises(UserError, match=r"bad/config\.json is damaged \(steps must be .*\): export the run again$"):
        artdiff.load(tmp_path / "bad")


def test_the_command_line_paints_as_stored_unless_it_says_otherwise(own, tmp_path):
    how = {"steps": 3, "solver": "euler", "spacing": "auto", "guidance": 1.0}
    why = {"checkpoint": "last.ckpt", "weights": "raw", "settings": how, "chosen_by": "a test"}
    (own.folder / "painting.json").write_text(json.dumps(why | {"sha256": sha256(own.last)}))

    def told(*words):
        printed = in_process("artdiff.generate", f"ckpt={own.folder}", "n=1", "label=none", *words, cwd=tmp_path)
        assert "(a test)" in printed
        with Image.open(next((tmp_path / words[0].removeprefix("out=")).glob("0*.png"))) as picture:
            return json.loads(picture.text["artdiff"])

    stored = told("out=one")
    assert (stored["steps"], stored["solver"], stored["checkpoint"]) == (3, "euler", "last.ckpt")
    assert told("out=two", "steps=2")["steps"] == 2
    (own.folder / "painting.json").write_text(json.dumps(why | {"sha256": "0" * 64}))
    changed = in_process("artdiff.generate", f"ckpt={own.folder}", "n=1", "steps=2", "out=changed", cwd=tmp_path)
    assert "painting.json belongs to a checkpoint that the run no longer has, and is ignored" in changed
    for damaged in ("{", "[]", json.dumps(why | {"sha256": sha256(own.last), "settings": {"steps": 0}})):
        (own.folder / "painting.json").write_text(damaged)
        with pytest.raises(UserError, match="painting.json is damaged"):
            artdiff.load(own)
    refused = in_process("artdiff.generate", f"ckpt={own.folder}", "out=three", cwd=tmp_path, expect=1)
    assert "painting.json is damaged" in refused


def test_checkpoints_and_weights_are_compared(own):
    found = artdiff.evaluate(own, compare={"checkpoints": "all"}, weights=["averaged", "raw"], **QUICK)
    names = {one.name for one in found.choices}
    assert {"best, averaged weights", "best, raw weights", "last, averaged weights"} <= names
    raw = artdiff.load(own.best, weights="raw").task
    assert all(
        torch.equal(one, other) for one, other in zip(raw.ema.parameters(), raw.network.parameters(), strict=True)
    )


def test_what_is_painted_by_itself_is_looked_at(own, monkeypatch):
    monkeypatch.setattr("artdiff.evaluation.representation.LEAST", 3)
    found = artdiff.evaluate(own, **QUICK | {"representation": 10})
    aspects = {one.name: one for one in found.representation}
    assert list(aspects) == ["class", "looks", "grey pictures"]
    lines = aspects["class"].lines
    assert [line.name for line in lines] == ["colour_field", "engraving", "flow_field", "landscape", "truchet"]
    assert sum(line.painted.value for line in lines) == pytest.approx(1)
    assert [one.name for one in found.asked] == [line.name for line in lines]
    text = (own.folder / "evaluation/report.html").read_text()
    for sentence in aspects["class"].sentences():
        assert sentence in Page(text).text
    assert "What it was trained on: the data card" in text
    content = json.loads((own.folder / "evaluation/scores.json").read_text())
    assert content["representation"][0]["accuracy"] == aspects["class"].accuracy


def test_a_picture_that_lies_near_a_training_picture_is_named_when_it_is_painted(own, tmp_path, monkeypatch):
    from artdiff.evaluation.originality import REFERENCE, Reference

    artdiff.evaluate(own, **QUICK)
    painted = in_process(
        "artdiff.generate", f"ckpt={own.folder}", "n=1", "label=none", "steps=2", "out=one", cwd=tmp_path
    )
    assert "may be a copy" not in painted
    known = Reference.load(own.folder / "evaluation")
    with Image.open(next((tmp_path / "one").glob("0*.png"))) as picture:
        near = known.nearness(picture.convert("RGB"))
        assert json.loads(picture.text["artdiff"])["nearest_ratio"] == pytest.approx(near.ratio, abs=1e-3)
    assert near.file in known.files
    dataclasses.replace(known, threshold=2.0).save(own.folder / "evaluation")
    warned = in_process(
        "artdiff.generate", f"ckpt={own.folder}", "n=1", "label=none", "steps=2", "out=two", cwd=tmp_path
    )
    assert f"may be a copy of the training picture {near.file}: look at both" in warned
    held = in_process("artdiff.generate", f"ckpt={own.folder}", "n=2", "label=none", "steps=2", "hold_back=true",
                      "out=held", cwd=tmp_path)  # fmt: skip
    assert "2 held back, grey on the sheet: held/held_back" in held
    assert sorted(path.name for path in (tmp_path / "held").rglob("*.png")) == ["0.png", "1.png", "sheet.png"]
    assert len(set(Image.open(tmp_path / "held/sheet.png").convert("RGB").getdata())) == 1
    off = in_process("artdiff.generate", f"ckpt={own.folder}", "n=1", "originality=false", "steps=2", "out=three",
                     cwd=tmp_path)  # fmt: skip
    assert "may be a copy" not in off
    (own.folder / "evaluation" / REFERENCE).write_bytes(b"PK")
    refused = in_process("artdiff.generate", f"ckpt={own.folder}", "out=four", cwd=tmp_path, expect=1)
    assert "originality.npz is damaged" in refused


@pytest.mark.slow
def test_a_reconstruction_has_lpips_if_weights_are_given(art, tmp_path):
    run = train(
        small(art, tmp_path / "run", "data.image_size=32", "loss=mse", "data.batch_size=16", "data.val_fraction=0.3")
    )
    torch.save(vgg16(init_weights=False).features.state_dict(), tmp_path / "vgg.pth")
    found = artdiff.evaluate(run, lpips=str(tmp_path / "vgg.pth"))
    assert found.reconstruction["lpips"] > 0
    assert found.protocol["lpips"].startswith("vgg.pth (SHA-256 ")
    with pytest.raises(UserError, match="compare and store need a model that paints new pictures"):
        artdiff.evaluate(run, compare={"steps": [1, 2]})
