"""A painter that is called as a pipeline of diffusers is: what comes out is what the painter paints."""

import json

import pytest
import torch
from conftest import composed, small, train
from PIL import Image

import artdiff
from artdiff import Pipeline, UserError
from artdiff.export import export
from artdiff.ingest import sample_art
from artdiff.settings.sharing import ExportSettings

TINY = ("network.channels=[16,32]", "network.cond_dim=16", "data.image_size=16", "task.warmup=0")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A painter of sample art with labels and captions."""
    root = tmp_path_factory.mktemp("captioned")
    sample_art.paint(root / "art", per_style=4, seed=0, captions=True)
    return train(small(root / "art", root / "run", "experiment=paint32", *TINY, "data.captions=auto")).folder


@pytest.fixture(scope="module")
def pipeline(run):
    return Pipeline.from_pretrained(str(run), device="cpu")


def same(one, other):
    return (one.size, one.tobytes()) == (other.size, other.tobytes())


@pytest.mark.slow
def test_a_model_that_was_given_away_paints_what_its_run_paints(run, tmp_path):
    asked = composed("export", f"ckpt={run}", f"to={tmp_path / 'model'}", "license=mit", "device=cpu", "samples=0")
    export(ExportSettings.of(asked))
    pipeline = Pipeline.from_pretrained(str(tmp_path / "model"), device="cpu")
    found = pipeline(["hills", "strokes"], class_labels="truchet", negative_prompt="balls", num_images_per_prompt=2,
                     num_inference_steps=2, guidance_scale=2.0)  # fmt: skip
    assert [one.settings["prompt"] for one in found.paintings] == ["hills", "hills", "strokes", "strokes"]
    painter = artdiff.load(run, device="cpu")
    for painting, picture in zip(found.paintings, found.images, strict=True):
        told = painting.settings
        assert (told["steps"], told["guidance"], told["label"]) == (2, 2.0, "truchet")
        (again,) = painter.paint(n=1, prompt=told["prompt"], label="truchet", negative="balls", seed=told["seed"],
                                 steps=2, guidance=2.0)  # fmt: skip
        assert same(again.picture, picture)


def test_a_generator_gives_the_same_pictures_again_and_others_when_it_goes_on(pipeline):
    generator = torch.Generator().manual_seed(7)
    one, other = (pipeline("hills", num_inference_steps=2, generator=generator).images[0] for _ in range(2))
    again = pipeline("hills", num_inference_steps=2, generator=generator.manual_seed(7)).images[0]
    assert same(one, again)
    assert not same(one, other)
    torch.manual_seed(3)
    first = pipeline(num_inference_steps=1).images[0]
    torch.manual_seed(3)
    assert same(first, pipeline(num_inference_steps=1)[0][0])


def test_it_begins_with_an_image_and_paints_other_shapes(pipeline, tmp_path):
    Image.new("RGB", (40, 20), "red").save(tmp_path / "red.png")
    for image in (tmp_path / "red.png", str(tmp_path / "red.png"), Image.open(tmp_path / "red.png")):
        found = pipeline(image=image, strength=0.0, width=32, height=16)
        assert same(found.images[0], Image.new("RGB", (32, 16), "red"))
    assert pipeline("hills", num_inference_steps=1, width=24).images[0].size == (24, 24)


def test_a_file_that_it_saves_says_that_a_model_made_it(pipeline, tmp_path):
    found = pipeline(class_labels=["truchet", "engraving"], num_inference_steps=1)
    assert [one.settings["label"] for one in found.paintings] == ["truchet", "engraving"]
    found.paintings[0].save(tmp_path / "one.png")
    file = Image.open(tmp_path / "one.png")
    assert json.loads(file.text["artdiff"])["seed"] == found.paintings[0].settings["seed"]
    assert "trainedAlgorithmicMedia" in str(file.info)


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"prompt": []}, "prompt is empty"),
        ({"class_labels": []}, "label is empty"),
        ({"class_labels": "cubism"}, "label=cubism is not known to this model"),
        ({"width": 17}, "width and height in size must be multiples of"),
        ({"num_inference_steps": 0}, "steps must be"),
        ({"image": "none.png"}, "muse=none.png does not exist"),
    ],
)
def test_what_cannot_be_painted_is_one_line(pipeline, asked, line):
    with pytest.raises(UserError, match=line):
        pipeline(**asked)


def test_a_reconstruction_is_no_pipeline(art, tmp_path):
    run = train(small(art, tmp_path / "copier", "data.image_size=16", "loss=mse"))
    with pytest.raises(UserError, match=r"reconstructs pictures: artdiff\.load"):
        Pipeline.from_pretrained(str(run.folder), device="cpu")
