"""A model that is given away: the same pictures, nothing that runs, and a card that says what is known."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import composed, in_process, small, train
from PIL import Image
from safetensors.torch import load_file
from test_painting import painter

import artdiff
from artdiff import UserError, exported, onnx_export, onnx_paint, origin
from artdiff.diffusion import samplers
from artdiff.evaluation import results
from artdiff.export import export
from artdiff.ingest import sample_art
from artdiff.networks import ConvDiffusionModel
from artdiff.settings.sharing import ExportSettings

pytestmark = pytest.mark.slow

TINY = ("network=unet", "network.channels=[32,32]", "network.cond_dim=16", "scheduler=null", "data.image_size=16")
CASCADE = (
    *("experiment=cascade128", "data.image_size=32", "data.batch_size=8", "network.channels=[32,32]"),
    *("refiner.channels=[16,32]", "stages.refine.data.train_crop=16", "callbacks.grids=null", "data.val_fraction=0.3"),
)


def written(run, to, *words):
    asked = composed("export", f"ckpt={run}", f"to={to}", "license=cc-by-4.0", "device=cpu", "samples=0", *words)
    return export(ExportSettings.of(asked))


@pytest.fixture(scope="module")
def run(art, tmp_path_factory):
    """A painter with a codec and a refiner."""
    folder = tmp_path_factory.mktemp("run") / "cascade"
    train(small(art, folder, *CASCADE))
    return folder


def pictures(model):
    painter = artdiff.load(model, device="cpu")
    return [np.asarray(one.picture) for one in painter.paint(n=2, label=["truchet", "engraving"], seed=3, steps=2)]


def test_the_folder_paints_the_same_pictures(run, tmp_path):
    files = written(run, tmp_path / "model", "samples=1")
    assert "![Samples, not selected: a row for each label](sheet.png)" in (tmp_path / "model/README.md").read_text()
    assert sorted(path.name for path in files) == ["README.md", "config.json", "model.safetensors", "sheet.png"]
    ours, theirs = pictures(run), pictures(tmp_path / "model")
    assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))
    again = artdiff.load(tmp_path / "model/model.safetensors", device="cpu")
    assert again.data == artdiff.load(run, device="cpu").data is not None


def test_it_holds_what_paints_and_no_more(run, tmp_path):
    written(run, tmp_path / "model", "samples=0")
    assert not (tmp_path / "model/sheet.png").exists()
    names = load_file(tmp_path / "model/model.safetensors")
    assert {name.split(".")[0] for name in names} == {"ema", "refiner"}
    size = (tmp_path / "model/model.safetensors").stat().st_size
    assert size < 0.5 * (run / "checkpoints/last.ckpt").stat().st_size


def test_a_reconstruction_and_a_stage_can_be_given_away(art, tmp_path):
    train(small(art, tmp_path / "copier", "data.image_size=16", "loss=mse"))
    written(tmp_path / "copier", tmp_path / "model")
    picture = Image.open(next((art / "truchet").iterdir())).convert("RGB")
    ours, theirs = (artdiff.load(tmp_path / name, device="cpu").reconstruct(picture) for name in ("copier", "model"))
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    assert "reconstructs pictures" in (tmp_path / "model/README.md").read_text()


def test_the_card_says_what_is_known(run, tmp_path):
    written(run, tmp_path / "model", "name='Model <1>'", "intended_use='To be looked at.'")
    _, front, text = (tmp_path / "model/README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc-by-4.0"
    for part in ("# Model <1>", "To be looked at.", "Labels: colour_field, engraving", "Not evaluated.",
                 json.loads((run / "metadata.json").read_text())["data"]["manifest"]):  # fmt: skip
        assert part in text


def test_scores_of_an_evaluation_stand_in_the_card(run, tmp_path):
    asked = {"n": 8, "steps": 2, "bootstrap": 0, "representation": 10, "device": "cpu", "refine_steps": 1}
    found = artdiff.evaluate(run, **asked)
    again = results.read(found.file)
    assert [one.cells() for one in again.scored] == [one.cells() for one in found.scored]
    for name in ("originality", "representation", "asked"):
        assert list(map(str, getattr(again, name))) == list(map(str, getattr(found, name)))
    written(run, tmp_path / "model", "samples=0")
    text = (tmp_path / "model/README.md").read_text()
    assert "| averaged weights | 8 | random_vgg16 |" in text
    assert "of 8 painted pictures lie suspiciously near to a training picture" in text
    assert "Not looked at" not in text


def test_nothing_of_the_owner_is_given_away(run, art, tmp_path):
    written(run, tmp_path / "model", "samples=0")
    for path in (tmp_path / "model").iterdir():
        assert str(art).encode() not in path.read_bytes()
        assert str(run).encode() not in path.read_bytes()
    settings = json.loads((tmp_path / "model/config.json").read_text())
    assert sorted(settings["datamodule_hyper_parameters"]) == ["background", "fit", "image_size"]
    assert settings["hyper_parameters"]["optimizer"] == {}


def test_its_best_way_to_paint_goes_with_it(run, tmp_path):
    asked = {"n": 8, "bootstrap": 0, "representation": 0, "originality": False, "device": "cpu", "refine_steps": 1}
    artdiff.evaluate(run, **asked, compare={"steps": [2, 3]}, store=True)
    ours = artdiff.load(run, device="cpu").defaults
    written(run, tmp_path / "model", "samples=0")
    assert artdiff.load(tmp_path / "model", device="cpu").defaults == ours != {}
    assert f"`steps={ours['steps']}`" in (tmp_path / "model/README.md").read_text()
    (run / "painting.json").unlink()
    with pytest.raises(UserError, match="has only the EMA weights"):
        artdiff.load(tmp_path / "model", device="cpu", weights="raw")


def test_scores_of_another_checkpoint_are_left_out(run, tmp_path, caplog):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run/evaluation/scores.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"protocol": {"checkpoint": {"sha256": "other"}}, "reconstruction": {"psnr": 99}}))
    written(tmp_path / "run", tmp_path / "model", "samples=0")
    assert "are of another checkpoint and are left out" in caplog.text
    assert "Not evaluated." in (tmp_path / "model/README.md").read_text()


def test_a_file_of_the_article_is_given_away(tmp_path):
    torch.save(ConvDiffusionModel().state_dict(), tmp_path / "article.pth")
    written(tmp_path / "article.pth", tmp_path / "model")
    picture = Image.new("RGB", (40, 24), "teal")
    painters = (artdiff.load(tmp_path / name, device="cpu") for name in ("article.pth", "model"))
    ours, theirs = (painter.reconstruct(picture) for painter in painters)
    assert ours.tobytes() == theirs.tobytes()


def test_what_is_there_stays(run, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        written(run, tmp_path / "model")


def test_the_licence_must_be_given(run, tmp_path):
    said = in_process("artdiff.export", f"ckpt={run}", "to=model", cwd=tmp_path, expect=1)
    assert said.strip() == "license must be given: license=…"
    with pytest.raises(UserError, match="license is empty"):
        written(run, tmp_path / "model", "license=''")


def test_an_exported_model_is_not_carried_on(run, art, tmp_path):
    written(run, tmp_path / "model", "samples=0")
    with pytest.raises(UserError, match="holds only weights|cannot be read|no optimizer"):
        train(small(art, tmp_path / "more", *CASCADE, f"ckpt={tmp_path / 'model/model.safetensors'}"))


def test_a_new_run_begins_with_an_exported_model(run, art, tmp_path):
    written(run, tmp_path / "model", "samples=0")
    new = train(small(art, tmp_path / "new", *CASCADE, f"init={tmp_path / 'model'}"))
    refiner = torch.load(new.last, weights_only=True)["state_dict"]["refiner.std"]
    assert refiner == artdiff.load(run, device="cpu").task.refiner.std


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "needs config.json beside it"),
        ("{", "cannot be read as a checkpoint"),
        ("[]", "is damaged: it does not describe a model"),
        ("{}", "is damaged: it does not describe a model"),
    ],
)
def test_a_damaged_folder_is_one_line(run, tmp_path, settings, message):
    written(run, tmp_path / "model", "samples=0")
    path = tmp_path / "model/config.json"
    path.unlink() if settings is None else path.write_text(settings)
    with pytest.raises(UserError, match=message):
        artdiff.load(tmp_path / "model", device="cpu")


def test_code_of_others_is_refused(run, tmp_path):
    written(run, tmp_path / "model", "samples=0")
    path = tmp_path / "model" / exported.SETTINGS
    settings = json.loads(path.read_text())
    settings["hyper_parameters"]["network"]["_target_"] = "os.system"
    path.write_text(json.dumps(settings))
    with pytest.raises(UserError, match="names code outside artdiff"):
        artdiff.load(tmp_path / "model", device="cpu")


@pytest.mark.parametrize("kind", ["cascade", "latent", "vit"])
def test_onnx_paints_what_pytorch_paints(kind, run, art, tmp_path):
    made = run
    if kind != "cascade":
        made = tmp_path / "run"
        words = ("experiment=paint32", "network=vit", "network.width=64", "network.depth=2", "data.image_size=16")
        crops = ("stages.codec.data.train_crop=16", "stages.refine.data.train_crop=16")
        latent = ("experiment=latent128", "data.image_size=32", "data.batch_size=8", "network.channels=[32,32]",
                  "codec.encoder=[16,16]", "codec.decoder=[16,16]", "refiner.channels=[16,32]", *crops,
                  "callbacks.grids=null")  # fmt: skip
        train(small(art, made, *(words if kind == "vit" else latent)))
    files = {path.name for path in written(made, tmp_path / "model", "onnx=true", "samples=0")}
    details = set() if kind == "vit" else {"detail_1.onnx", "finish_1.onnx"}
    assert {"denoise.onnx", "decode.onnx", "onnx.json", "paint_onnx.py", *details} <= files
    model, task = onnx_paint.Model(tmp_path / "model"), artdiff.load(made, device="cpu").task
    shapes = [model.told["latent"], *model.told["details"]]
    noise, *detail = [torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)) for shape in shapes]
    label = torch.tensor([0, 4, -1])
    with torch.inference_mode():
        first = task.ema_denoiser(noise, torch.tensor([0.1, 0.5, 0.9]), label)
        denoise = task.denoiser((label,), guidance=2.0, interval=tuple(model.told["guidance_interval"]))
        *_, latent = samplers.get(model.told["solver"])(denoise, noise, model.told["times"])
        picture = task.codec.decode(latent)
        for refiner, noisy in zip(task.refiners, detail, strict=True):
            picture = refiner.refine(picture, label, noisy, steps=len(model.told["detail_times"]) - 1)
    asked = {"noisy": noise.numpy(), "time": np.float32([0.1, 0.5, 0.9]), "label": label.numpy()}
    assert np.abs(model.run("denoise", **asked) - first.numpy()).max() < 1e-4
    painted = onnx_paint.paint(model, label.numpy(), noise.numpy(), [one.numpy() for one in detail], guidance=2.0)
    assert np.abs(painted - picture.clamp(-1, 1).numpy()).max() < 1e-3


def test_the_program_beside_it_paints_alone(run, tmp_path):
    written(run, tmp_path / "model", "onnx=true", "samples=0")
    asked = ("--label", "truchet", "--n", "2", "--seed", "5", "--out", "made")
    program = [sys.executable, "-c", "import sys, runpy; sys.modules.update(torch=None, artdiff=None); "
               "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"]  # fmt: skip
    subprocess.run([*program, tmp_path / "model/paint_onnx.py", *asked], cwd=tmp_path, check=True, timeout=120)
    found = sorted((tmp_path / "made").iterdir())
    assert [path.name for path in found] == ["truchet_5.png", "truchet_6.png"]
    with Image.open(found[0]) as one, Image.open(found[1]) as other:
        assert one.size == (32, 32) and one.tobytes() != other.tobytes()
        assert origin.GENERATED in one.info["XML:com.adobe.xmp"]


def test_a_program_that_knows_words_follows_a_prompt(tmp_path):
    sample_art.paint(tmp_path / "art", per_style=4, seed=0, captions=True)
    train(small(tmp_path / "art", tmp_path / "run", "experiment=paint32", *TINY, "data.captions=auto",
                "trainer.max_steps=8", "optimizer.lr=0.02", "task.warmup=0"))  # fmt: skip
    written(tmp_path / "run", tmp_path / "model", "onnx=true", "samples=0")
    for prompt in ("hills", "strokes"):
        asked = ("--prompt", prompt, "--n", "1", "--out", tmp_path / prompt)
        subprocess.run([sys.executable, tmp_path / "model/paint_onnx.py", *asked], check=True, timeout=120)
    one, other = (Image.open(tmp_path / prompt / f"{prompt}_0.png").tobytes() for prompt in ("hills", "strokes"))
    assert one != other


def test_a_reconstruction_has_no_onnx(art, tmp_path):
    train(small(art, tmp_path / "copier", "data.image_size=16", "loss=mse"))
    with pytest.raises(UserError, match="onnx=true needs a model that paints"):
        written(tmp_path / "copier", tmp_path / "model", "onnx=true")


@pytest.mark.parametrize("solver", [{"_target_": "mine.Solver"}, "mine.Solver"])
def test_a_solver_that_the_program_lacks_is_one_line(solver):
    one = painter()
    one.defaults = {"solver": solver}
    with pytest.raises(UserError, match=r"^onnx=true: the program beside the networks has no solver .*mine\.Solver"):
        onnx_export.files(one)


@pytest.mark.parametrize("solver", onnx_paint.SOLVERS)
@pytest.mark.parametrize("start", [0.0, 0.4])
def test_its_samplers_are_ours(solver, start):
    def denoise(noisy, time):
        return 0.3 * noisy + np.float32(np.sin(3 * time))

    noise = np.random.default_rng(0).standard_normal((2, 3, 4, 4), dtype=np.float32)
    times = samplers.times(7, start, "karras")
    *_, ours = samplers.get(solver)(denoise, torch.from_numpy(noise), times)
    theirs = onnx_paint.SOLVERS[solver](denoise, noise, times)
    assert np.abs(ours.numpy() - theirs).max() < 1e-5
