"""A run in stages: each on its own settings, one after the other, and the last checkpoint paints alone."""

import json
import shutil
from contextlib import nullcontext

import pytest
import torch
from conftest import composed, in_process, picture, small, train
from hydra.errors import InstantiationException
from hydra.utils import instantiate

import artdiff
from artdiff import UserError, checkpoints, runs
from artdiff.diffusion.codec import Resize
from artdiff.ingest.sample_art import STYLES
from artdiff.settings.training import TrainSettings
from artdiff.stages import merged, planned
from artdiff.tasks import Refinement
from artdiff.training import staged
from artdiff.training.initial_weights import load_parts, take_parts

TINY = (
    "experiment=latent128",
    "data.image_size=32",
    "data.batch_size=8",
    "network.channels=[32,32]",
    "codec.encoder=[16]",
    "codec.decoder=[16]",
    "codec.num_res_blocks=1",
    "refiner.channels=[16,32]",
    "stages.codec.data.train_crop=16",
    "stages.refine.data.train_crop=16",
    "loss.perceptual.weights=random",
    "loss.perceptual.layer=relu1_2",
    "callbacks.grids=null",
)


def _config(art, run, *overrides):
    return small(art, run, *TINY, *overrides)


def _without_refiner(art, run, *overrides):
    return small(art, run, *(word for word in TINY if not word.startswith("refiner.")), "refiner=none", *overrides)


def _state(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def _are_equal(run, other):
    """Whether the last checkpoints of two runs hold the same weights."""
    ours, theirs = _state(run), _state(other)
    return set(ours) == set(theirs) and all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.fixture(scope="module")
def trained(art, tmp_path_factory):
    """The folder of a run of all three stages, two steps each."""
    run = tmp_path_factory.mktemp("staged") / "run"
    train(_config(art, run))
    return run


def _stages(*overrides):
    return planned(TrainSettings.of(composed("train", "experiment=latent128", "run_dir=runs/x", *overrides)))


def test_stages_share_the_time():
    stages = _stages("trainer.max_time=00:01:00:00", "stages.codec.share=1", "stages.refine.share=1",
                     "stages.paint.share=2")  # fmt: skip
    assert [(stage.name, stage.folder) for stage in stages] == [("codec", "codec"), ("refine", "refine"), ("paint", "")]
    limits = [stage.settings.trainer["max_time"] for stage in stages]
    assert limits == ["00:00:15:00", "00:00:15:00", "00:00:30:00"]


def test_without_a_time_stages_have_none():
    assert [stage.settings.trainer["max_time"] for stage in _stages()] == [None] * 3


def test_a_share_of_zero_leaves_a_stage_out():
    stages = _stages("trainer.max_time=00:00:10:00", "stages.refine.share=0", "refiner=none")
    assert [stage.name for stage in stages] == ["codec", "paint"]
    assert sum(stage.share for stage in stages) == pytest.approx(1)


def test_a_stage_has_settings_and_a_folder_of_its_own():
    codec, _, paint = _stages("stages.codec.optimizer.lr=0.5", "optimizer.lr=0.25")
    assert codec.settings.task.optimizer["lr"] == codec.settings.optimizer["lr"] == 0.5
    assert paint.settings.task.optimizer["lr"] == 0.25
    assert codec.settings.task.network == paint.settings.task.codec
    assert codec.settings.run_dir == "runs/x/codec"
    assert codec.settings.callbacks["last"]["path"] == "runs/x/codec/checkpoints/last.ckpt"
    assert codec.settings.logger["save_dir"] == "runs/x/codec"
    assert paint.settings.callbacks["last"]["path"] == "runs/x/checkpoints/last.ckpt"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.codec.share=-1"], "stages.codec.share must be 0 or more"),
        (["+stages.codec.speed=1"], "stages.codec.speed cannot differ in a stage"),
        (["+stages.more=1"], "stages.more must be settings with a share"),
        (["trainer.max_time=soon"], "trainer.max_time must be DD:HH:MM:SS"),
        (["trainer.max_time={minute:30}"], "trainer.max_time must name weeks, days"),
        (["+stages.refine.network.channels=[32]"], "stages.refine.network cannot differ in a stage"),
        (["finetune_codec=true"], "needs the codec of a run"),
        (["experiment=baseline", "codec_from=RUN"], "needs a task with a codec"),
        (["experiment=paint32", "stages=none", "init=RUN", "finetune_codec=true"], "needs a stage that trains a codec"),
        (["experiment=paint128", "init=RUN", "finetune_codec=true"], "needs a stage that trains a codec"),
        (["init=RUN", "finetune_codec=true", "stages.codec.share=0"], "needs a stage that trains a codec"),
        (
            ["experiment=baseline", "trainer.max_time=00:10:00"],
            "trainer.max_time must be DD:HH:MM:SS, such as 00:01:30",
        ),
    ],
)
def test_mistakes_are_one_line(overrides, message):
    with pytest.raises(UserError, match=message):
        _stages(*overrides)


@pytest.mark.parametrize("experiment", ["baseline", "codec", "paint32", "paint64", "latent128", "paint128", "paint256"])
def test_the_sides_of_every_experiment_fit_its_networks(experiment):
    staged._check(_stages(f"experiment={experiment}"), codec=None, init=None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["stages.refine.data.train_crop=72"],
            "stages.refine.data.train_crop must be a multiple of 16 for the refiner, got 72: set "
            "stages.refine.data.train_crop=64 or 80",
        ),
        (["data.image_size=40"], "data.image_size must be a multiple of 16 for the refiner, got 40: set .*=32 or 48"),
        (
            ["experiment=paint128", "data.image_size=64", "codec.factor=5"],
            "data.image_size must be a multiple of 40 for the refiner, got 64: set data.image_size=40 or 80",
        ),
        (["experiment=paint32", "data.train_crop=40", "data.image_size=48", "network.channels=[32,32,32,32,32]"],
         "data.train_crop must be a multiple of 16 for network and codec, got 40"),
        (["experiment=paint32", "network=vit", "data.train_crop=16"], "ViT takes pictures of one size"),
        (["data.image_size=512", "stages.refine.data.train_crop=520"], None),  # a crop is never larger than the picture
    ],
)  # fmt: skip
def test_sides_that_no_network_takes_are_refused_before_the_first_stage(overrides, message):
    stages = _stages(*overrides)
    with nullcontext() if message is None else pytest.raises(UserError, match=message):
        staged._check(stages, codec=None, init=None)


def test_a_component_replaces_another_and_settings_are_merged():
    config = {"loss": {"_target_": "A", "weight": 1}, "data": {"size": 8, "flip": 0.5}}
    changes = {"loss": {"_target_": "B"}, "data": {"flip": 0.0}}
    assert merged(config, changes) == {"loss": {"_target_": "B"}, "data": {"size": 8, "flip": 0.0}}
    assert config["data"]["flip"] == 0.5


@pytest.mark.slow
def test_one_checkpoint_paints_alone(trained, tmp_path):
    shutil.copy(trained / "checkpoints/last.ckpt", tmp_path / "alone.ckpt")
    painter = artdiff.load(tmp_path / "alone.ckpt", device="cpu")
    assert painter.task.codec.factor == 4
    (painted,) = painter.paint(n=1, label="truchet", steps=2)
    assert painted.settings["spacing"] == "karras"
    assert painted.picture.size == (32, 32)
    codec = _state(trained / "codec")
    assert all(torch.equal(codec[f"network.{name}"], value) for name, value in painter.task.codec.state_dict().items())
    refiner = _state(trained / "refine")
    for name, value in painter.task.refiner.network.state_dict().items():
        assert torch.equal(refiner[f"ema.{name}"], value)
    assert painter.task.refiner.std == refiner["std"] > 0


def test_the_codec_and_the_refiner_are_not_trained_while_painting_is(trained):
    state = _state(trained)
    assert all(torch.equal(state[f"codec.{name.removeprefix('network.')}"], value)
               for name, value in _state(trained / "codec").items() if name.startswith("network."))  # fmt: skip


def test_a_run_that_stopped_in_a_stage_is_carried_on_there(art, trained, tmp_path):
    stopped = tmp_path / "stopped"
    shutil.copytree(trained / "codec", stopped / "codec")  # killed before the second stage saved anything
    before = (stopped / "codec/checkpoints/last.ckpt").stat().st_mtime_ns
    run = train(_config(art, stopped, "ckpt=last"))
    assert (stopped / "codec/checkpoints/last.ckpt").stat().st_mtime_ns == before
    assert _are_equal(run.folder, trained)


@pytest.mark.slow
def test_an_unfinished_stage_is_finished_first(art, tmp_path):
    run = tmp_path / "run"
    train(_config(art, run))
    metadata = json.loads((run / "codec/metadata.json").read_text())
    (run / "codec/metadata.json").write_text(json.dumps(metadata | {"finished": False}))
    shutil.rmtree(run / "refine")
    shutil.rmtree(run / "checkpoints")
    train(_config(art, run, "ckpt=last", "trainer.max_steps=3"))
    steps = [json.loads((run / name / "metadata.json").read_text())["steps"] for name in ("codec", "refine", ".")]
    assert steps == [3, 3, 3]


def test_another_folder_carries_on_from_a_run(art, trained, tmp_path):
    run = train(_config(art, tmp_path / "longer", f"ckpt={trained}", "trainer.max_steps=3"))
    assert run.metadata["steps"] == 3
    assert not (tmp_path / "longer/codec").exists()  # the painter's checkpoint holds the codec


def test_a_run_in_another_folder_takes_over_the_finished_stages(art, trained, tmp_path):
    shutil.copytree(trained / "codec", tmp_path / "stopped/codec")
    run = train(_config(art, tmp_path / "new", f"ckpt={tmp_path / 'stopped'}"))
    assert _are_equal(run.folder, trained)
    assert (run.folder / "codec/checkpoints/last.ckpt").exists()


def test_a_finished_stage_is_not_taken_for_another(art, trained, tmp_path):
    shutil.copytree(trained / "codec", tmp_path / "run/codec")
    with pytest.raises(UserError, match="was trained with network"):
        train(_config(art, tmp_path / "run", "ckpt=last", "codec.latent_channels=8"))


def test_a_stage_that_was_killed_after_its_last_step_is_finished(art, trained, tmp_path):
    shutil.copytree(trained / "codec", tmp_path / "run/codec")
    metadata = json.loads((tmp_path / "run/codec/metadata.json").read_text())
    (tmp_path / "run/codec/metadata.json").write_text(json.dumps(metadata | {"finished": False}))
    run = train(_config(art, tmp_path / "run", "ckpt=last"))
    assert json.loads((run.folder / "codec/metadata.json").read_text())["finished"]
    assert run.metadata["steps"] == 2


def test_a_mistake_in_a_later_stage_is_found_before_the_first(art, tmp_path):
    with pytest.raises(InstantiationException, match="need width and height in multiples of 4, got 6"):
        train(_config(art, tmp_path / "run", "data.image_size=24", "network.channels=[32,32,32]"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_resumed_runs_do_not_share_the_latents_of_other_codecs(art, trained, tmp_path):
    """Before a checkpoint is restored, the codecs of both are the same random one."""
    cached = f"data.cache_dir={tmp_path / 'cache'}"
    train(_config(art, tmp_path / "other", cached, "stages.codec.task.latent_noise=2"))
    for name, run in (("one", trained), ("two", tmp_path / "other")):
        train(_config(art, tmp_path / name, cached, f"ckpt={run}", "trainer.max_steps=3"))
    cleared = train(_config(art, tmp_path / "again", f"ckpt={tmp_path / 'other'}", "trainer.max_steps=3",
                            f"data.cache_dir={tmp_path / 'empty'}"))  # fmt: skip
    assert _are_equal(cleared.folder, tmp_path / "two")


@pytest.fixture
def others(art, tmp_path):
    """A folder with one of the classes, and one that is new."""
    for old, new in (("truchet", "truchet"), ("landscape", "unheard")):
        shutil.copytree(art / old, tmp_path / "art" / new)
    return tmp_path / "art"


def test_a_refiner_of_other_classes_knows_them_by_their_names(others, trained, tmp_path, caplog):
    run = train(_config(others, tmp_path / "run", f"codec_from={trained}", "stages.refine.share=0"))
    table = "refiner.network.condition.label.weight"
    (truchet, unheard, null), before = _state(run.folder)[table], _state(trained)[table]
    assert torch.equal(truchet, before[sorted(STYLES).index("truchet")])
    assert torch.equal(unheard, before[-1])
    assert torch.equal(null, before[-1])
    assert "the refiner does not know unheard: it paints them as pictures without a label" in caplog.text


def test_a_run_in_stages_begins_with_the_weights_of_another(others, trained, tmp_path, caplog):
    caplog.set_level("INFO")
    run = train(_config(others, tmp_path / "run", f"init={trained}", "optimizer.lr=0", "data.image_size=48"))
    assert "stage 1" not in caplog.text  # its codec and its refiner are taken as they are
    ours, theirs = _state(run.folder), _state(trained)
    for name, value in ours.items():
        if name.startswith(("codec.", "refiner.")) and "label" not in name:
            assert torch.equal(value, theirs[name]), name
        if name.startswith("network.") and "label" not in name:
            assert torch.equal(value, theirs[name.replace("network.", "ema.")]), name


def test_a_damaged_checkpoint_of_a_finished_stage_is_replaced_by_the_one_before(art, trained, tmp_path, caplog):
    shutil.copytree(trained / "codec", tmp_path / "run/codec")
    last = tmp_path / "run/codec/checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    run = train(_config(art, tmp_path / "run", "ckpt=last"))
    assert f"{last} is damaged: using last-1.ckpt" in caplog.text
    assert _are_equal(run.folder, trained)


def test_a_cascade_paints_small_pictures_and_refines_them(art, tmp_path):
    cascade = ("codec=resize", "stages=cascade", "stages.refine.data.train_crop=16", "task.data_std=0.5", "loss=mse")
    words = [word for word in TINY if not word.startswith(("codec.", "stages.", "loss."))]
    run = train(small(art, tmp_path / "run", *words, *cascade))
    assert {path.name for path in run.folder.iterdir() if path.is_dir()} >= {"refine", "checkpoints"}
    painter = artdiff.load(run, device="cpu")
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    small_one = painter.task.codec.encode(image)
    assert torch.allclose(small_one, image.unflatten(3, (8, 4)).unflatten(2, (8, 4)).mean(dim=(3, 5)), atol=1e-6)
    assert painter.task.codec.decode(small_one).shape == image.shape
    (painted,) = painter.paint(n=1, label="truchet", steps=2)
    (draft,) = painter.paint(n=1, label="truchet", steps=2, refine_steps=0)
    assert painted.picture.size == draft.picture.size == (32, 32)
    assert painted.picture.tobytes() != draft.picture.tobytes()


TWICE = (
    *("experiment=paint256", "data.image_size=64", "data.batch_size=8", "network.channels=[32,32]"),
    *("refiner.channels=[16,32]", "enlarger.channels=[16,32]", "callbacks.grids=null"),
    *("stages.refine.data.train_crop=32", "stages.enlarge.data.train_crop=16"),
)


@pytest.fixture(scope="module")
def enlarged(art, tmp_path_factory):
    """The folder of a run whose pictures are enlarged: an enlarger, a refiner and a painter, two steps each."""
    run = tmp_path_factory.mktemp("enlarged") / "run"
    train(small(art, run, *TWICE))
    return run


@pytest.mark.slow
def test_what_is_refined_can_be_enlarged(enlarged):
    painter = artdiff.load(enlarged, device="cpu")
    assert (painter.image_size, painter.multiple, painter.task.codec.factor) == (64, 16, 8)
    (painted,) = painter.paint(n=1, label="truchet", steps=2)
    assert painted.picture.size == (64, 64)
    for name, part in (("refine", "refiner"), ("enlarge", "enlarger")):
        learned, used = _state(enlarged / name), getattr(painter.task, part)
        assert learned["std"] == used.std > 0
        assert all(torch.equal(learned[f"ema.{key}"], value) for key, value in used.network.state_dict().items())


def test_an_enlarger_paints_what_is_lost_at_half_the_sides(enlarged):
    task = artdiff.load(enlarged, device="cpu").task
    draft, label = torch.rand(2, 3, 64, 64) * 2 - 1, torch.zeros(2, dtype=torch.long)
    half = Resize(factor=2).encode(draft)
    assert [refiner.shrink for refiner in task.refiners] == [2, 1]
    learned = Refinement.load_from_checkpoint(enlarged / "refine/checkpoints/last.ckpt", map_location="cpu")
    assert learned.draft(draft).shape == half.shape
    refined = task.refiner.refine(draft, label, torch.randn(half.shape), steps=2)
    resize = Resize(factor=2)
    smooth = resize.decode(resize.encode(refined))
    assert refined.shape == draft.shape
    assert (refined - smooth).abs().mean() < 0.5 * (draft - smooth).abs().mean()  # it has no detail of its own size


def test_a_run_with_an_enlarger_gives_its_parts_to_another(art, enlarged, tmp_path):
    run = train(small(art, tmp_path / "run", *TWICE, f"init={enlarged}"))
    assert not (run.folder / "enlarge").exists()
    before, now = _state(enlarged), _state(run.folder)
    names = [name for name in before if name.startswith(("refiner.", "enlarger."))]
    assert names and all(torch.equal(now[name], before[name]) for name in names)


def test_an_enlarger_is_not_put_behind_a_refiner_that_works_without_one(art, enlarged, tmp_path):
    words = ("experiment=paint128", "data.image_size=64", "network.channels=[32,32]", "refiner.channels=[16,32]")
    with pytest.raises(UserError, match=r"^codec=.* has an enlarger, which needs its own refiner: .*share=0"):
        train(small(art, tmp_path / "run", *words, "stages.refine.data.train_crop=32", f"codec={enlarged}"))
    assert not (tmp_path / "run/refine").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("enlarger=none",), "stages.enlarge trains an enlarger: set enlarger=unet, or stages=cascade"),
        (
            ("enlarger=none", "stages.enlarge.share=0"),
            "must be 1 without an enlarger, got 2: set stages=cascade",
        ),
        (("stages.refine.task.shrink=4",), "task.shrink must be 2 with an enlarger, got 4"),
        (("stages.enlarge.task.codec.factor=4",), "codec.factor must be 2, got 4"),
    ],
)
def test_a_refiner_learns_at_the_sides_that_it_is_used_at(words, message):
    with pytest.raises(UserError, match=message):
        planned(TrainSettings.of(composed("train", "experiment=paint256", "run_dir=runs/x", *words)))


def test_a_refiner_of_other_sides_is_not_taken_over(art, enlarged, tmp_path):
    cascade = ("codec=resize", "stages=cascade", "stages.refine.share=0", "task.data_std=0.5", "loss=mse")
    words = [word for word in TINY if not word.startswith(("codec.", "stages.", "loss."))]
    with pytest.raises(UserError, match="works at 1/2 of width and height, expected 1/1"):
        train(small(art, tmp_path / "run", *words, *cascade, f"codec_from={enlarged / 'refine'}"))


@pytest.mark.slow
def test_an_enlarger_keeps_its_own_codec(art, enlarged, tmp_path):
    run = train(small(art, tmp_path / "run", *TWICE, f"codec_from={enlarged}"))
    checkpoint = run.folder / "enlarge/checkpoints/last.ckpt"
    learned = Refinement.load_from_checkpoint(checkpoint, map_location="cpu")
    assert learned.codec.factor == 2
    restored = checkpoints.restore(checkpoint).task.network  # `attention` was once another setting's name
    assert not any("attention" in name for name, _ in restored.named_parameters())


def test_a_refiner_alone_does_not_paint(trained):
    with pytest.raises(UserError, match="is a refiner, which cannot paint alone"):
        artdiff.load(trained / "refine", device="cpu")


def test_a_picture_is_refined_at_its_own_size(trained, tmp_path):
    picture(3, (70, 45)).save(tmp_path / "mine.png")
    painter = artdiff.load(trained, device="cpu")
    (refined,) = painter.paint(refine=tmp_path / "mine.png", refine_steps=2)
    assert refined.picture.size == (72, 48)
    assert refined.settings["refine"] == "mine.png"
    (draft,) = painter.paint(refine=tmp_path / "mine.png", refine_steps=0)
    assert draft.picture.tobytes() != refined.picture.tobytes()
    (same,) = painter.paint(muse=tmp_path / "mine.png", strength=0.0, size="own")
    assert same.picture.tobytes() == same.muse.tobytes()


def test_refined_pictures_do_not_depend_on_their_company(trained):
    painter = artdiff.load(trained, device="cpu")
    alone, together = (painter.paint(n=3, label="truchet", steps=2, batch_size=size) for size in (1, None))
    assert [one.picture.tobytes() for one in alone] == [one.picture.tobytes() for one in together]


def test_a_run_in_stages_is_not_overwritten(art, trained):
    with pytest.raises(UserError, match="holds a run already"):
        train(_config(art, trained))


def test_a_codec_of_another_run_is_used(art, trained, tmp_path):
    run = train(_config(art, tmp_path / "given", f"codec_from={trained}", "stages.refine.share=0"))
    assert not (run.folder / "codec").exists()
    ours, theirs = _state(run.folder), _state(trained / "codec")
    assert all(
        torch.equal(ours[f"codec.{name[8:]}"], value) for name, value in theirs.items() if name[:8] == "network."
    )
    assert ours["refiner.std"] == _state(trained)["refiner.std"]  # the run had one


@pytest.mark.slow
def test_a_given_codec_can_be_trained_further(art, trained, tmp_path):
    given = (f"codec_from={trained}", "finetune_codec=true")
    train(_config(art, tmp_path / "run", *given, "optimizer.lr=0", "stages.codec.optimizer.lr=0"))
    ours, theirs = _state(tmp_path / "run/codec"), _state(trained / "codec")
    assert torch.equal(ours["network.decoder.0.weight"], theirs["network.decoder.0.weight"])


@pytest.fixture
def begun(monkeypatch):
    """The stages that would be trained: of each its settings, what is carried on, and what it is built on."""
    found = []

    def fit(settings, run, ckpt, *, before=(), init=None, is_last=True):
        found.append((settings, ckpt, [*before], is_last))
        return run

    monkeypatch.setattr(staged, "fit", fit)
    return found


def test_the_parts_of_a_run_are_trained_further(art, trained, tmp_path, begun):
    given = (f"init={trained}", "finetune_codec=true", "codec.latent_channels=8", "refiner.channels=[32,32]")
    run = train(_config(art, tmp_path / "run", *given))
    last = trained / runs.LAST
    assert [before for _, _, before, _ in begun] == [
        [last],
        [last, run.folder / "codec" / runs.LAST],
        [last, run.folder / "codec" / runs.LAST, run.folder / "refine" / runs.LAST],
    ]
    theirs, built = _state(trained), []
    for (settings, *_), before in zip(begun[:2], ([last], [last, trained / "codec" / runs.LAST]), strict=True):
        config = settings.config
        parts = take_parts(config, before, last, trust_code=False, is_last=False)
        config["task"] |= {"classes": sorted(STYLES)} if "classes" in config["task"] else {}
        built.append(instantiate(config["task"], loss=None))
        load_parts(parts, built[-1])
    codec, refiner = (task.state_dict() for task in built)
    names = [name for name in codec if name.startswith("network.")]
    assert all(torch.equal(codec[name], theirs[name.replace("network.", "codec.", 1)]) for name in names)
    assert built[1].hparams["network"]["image_size"] == 64  # of its crops, whatever the painter's
    for part in ("network", "ema"):
        names = [name for name in refiner if name.startswith(f"{part}.")]
        assert names and all(torch.equal(refiner[name], theirs[f"refiner.network.{name.removeprefix(f'{part}.')}"])
                             for name in names)  # fmt: skip
    assert refiner["std"] == 0  # measured anew


def test_a_codec_that_was_not_trained_is_not_trained_further(art, trained, tmp_path, begun):
    given = (f"codec_from={trained / 'refine'}", "finetune_codec=true", "stages.refine.share=0")
    train(_without_refiner(art, tmp_path / "a", *given))
    reconstruction = tmp_path / "plain.ckpt"
    torch.save({"weight": torch.zeros(1)}, reconstruction)
    with pytest.raises(UserError, match="finetune_codec=true needs a run with a trained codec, and init=.* has none"):
        train(_config(art, tmp_path / "b", f"init={reconstruction}", "finetune_codec=true"))


def test_a_refiner_that_is_missing_is_noticed_before_the_codec_is_trained(art, trained, tmp_path, begun):
    given = (f"codec_from={trained / 'codec'}", "finetune_codec=true", "stages.refine.share=0")
    with pytest.raises(UserError, match="the refiner has weights that were not trained: .* or set refiner=none"):
        train(_config(art, tmp_path / "run", *given))
    assert not begun


def test_a_refiner_is_taken_over_unless_none_is_asked_for(art, trained, caplog):
    caplog.set_level("INFO")
    words = (f"codec_from={trained}", "stages.refine.share=0")
    for compose, parts in ((_config, {"codec", "refiner"}), (_without_refiner, {"codec"})):
        (stage,) = planned(TrainSettings.of(compose(art, "runs/x", *words)))
        assert set(take_parts(stage.settings.config, [trained / runs.LAST], None, trust_code=False)) == parts
    paints = small(art, "runs/x", "experiment=paint32", f"init={trained}")  # it knows nothing of refiners
    assert set(take_parts(paints, [], trained / runs.LAST, trust_code=False)) == {"codec", "refiner"}
    assert "taken over from the given run: refiner" in caplog.text


def test_a_run_is_carried_on_with_its_own_parts(art, trained):
    (stage,) = planned(TrainSettings.of(_config(art, "runs/x", f"codec_from={trained}", "stages.refine.share=0")))
    task = stage.settings.config["task"]
    task["refiner"] = task["refiner"] | {"channels": [32, 32]}  # as the given run has it
    take_parts(stage.settings.config, [trained / "codec" / runs.LAST], None, trust_code=False, ckpt=trained / runs.LAST)
    assert task["refiner"]["channels"] == [16, 32]


def test_a_finished_stage_is_compared_with_the_codec_it_was_given(art, trained, tmp_path, begun):
    """Each process is built on the checkpoint that was there, while the first one copies it."""
    stopped = tmp_path / "stopped"
    shutil.copytree(trained / "refine", stopped / "refine")
    words = (f"codec_from={trained}", "codec.latent_channels=8", f"ckpt={stopped}")
    run = train(_config(art, tmp_path / "run", *words))
    ((_, ckpt, before, is_last),) = begun
    assert (ckpt, before, is_last) == (None, [trained / runs.LAST, stopped / "refine" / runs.LAST], True)
    for name in (runs.LAST, runs.METADATA, runs.CONFIG):
        assert (run.folder / "refine" / name).read_bytes() == (stopped / "refine" / name).read_bytes()


@pytest.mark.slow
def test_a_stage_saved_at_its_last_step_is_finished_in_another_folder(art, trained, tmp_path, monkeypatch):
    fit = staged.fit
    monkeypatch.setattr(staged, "fit", lambda settings, run, ckpt, **how: ckpt and fit(settings, run, ckpt, **how))
    shutil.copytree(trained / "codec", tmp_path / "stopped/codec")
    metadata = json.loads((tmp_path / "stopped/codec/metadata.json").read_text())
    (tmp_path / "stopped/codec/metadata.json").write_text(json.dumps(metadata | {"finished": False}))
    train(_config(art, tmp_path / "new", f"ckpt={tmp_path / 'stopped'}"))
    codec = artdiff.Run(tmp_path / "new/codec")
    assert codec.is_stage and codec.metadata["finished"] and codec.metadata["steps"] == 2
    assert "val/loss" in codec.metadata["scores"]


def test_the_command_line_takes_a_run_for_a_codec(art, trained, tmp_path):
    words = ("debug=two_steps", "trainer=cpu", f"data.root={art}", *TINY, f"codec={trained}", "run_dir=run")
    said = in_process("artdiff.train", *words, "stages.refine.share=0", cwd=tmp_path)
    assert "stage 1" not in said
    assert (tmp_path / "run/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize(("stage", "part"), [("codec", "codec"), ("refine", "refiner"), ("enlarge", "enlarger")])
def test_what_the_painter_is_built_on_must_have_been_trained(art, tmp_path, stage, part):
    words = TWICE if stage == "enlarge" else TINY
    with pytest.raises(UserError, match=f"the {part} has weights that no stage trains"):
        train(small(art, tmp_path / "run", *words, f"stages.{stage}.share=0"))


def test_a_run_without_a_codec_is_refused_as_one(art, tmp_path):
    train(small(art, tmp_path / "plain", "data.image_size=16"))
    with pytest.raises(UserError, match="holds no trained codec"):
        train(_config(art, tmp_path / "run", f"codec_from={tmp_path / 'plain'}"))
