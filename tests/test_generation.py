"""Training to paint: what a step depends on, what is averaged, and that a resumed run is the same run."""

import copy
import json
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import composed, generate, small, train
from hydra.utils import instantiate
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from artdiff import UserError
from artdiff.checkpoints import restore
from artdiff.data.loader import Batch
from artdiff.diffusion.noise import PictureRandom
from artdiff.images import Colours, colours, to_signed
from artdiff.losses import HybridLoss
from artdiff.ranks import Share
from artdiff.settings.training import TrainSettings
from artdiff.tasks import Generation
from artdiff.training import report
from artdiff.training.grids import drift

pytestmark = pytest.mark.slow

ADAM = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-3}
NETWORK = {
    "_target_": "artdiff.networks.UNet",
    **{"image_size": 16, "patch": 1, "channels": [16, 32], "num_res_blocks": 1, "attention_resolutions": [8]},
    **{"cond_dim": 16, "dropout": 0.1},
}
TINY = ("network=unet", "network.patch=1", "network.channels=[16,32]", "network.cond_dim=16", "data.image_size=16")
PAINTS = ("task=generation", "scheduler=null", "loss=mse", *TINY)
STEP = "{_target_:torch.optim.lr_scheduler.StepLR,_partial_:true,step_size:1,gamma:0.5}"
MSE = HybridLoss(mse_weight=1, perceptual_weight=0, perceptual=None)


def task(loss=MSE, **changed):
    settings = {"warmup": 10, "classes": ["a", "b"], "data_std": 0.5, "time_mean": 0.0, "time_std": 1.0, "gate": 0.3}
    settings |= {"label_dropout": 0.1, "ema_half_life": 1000, "ema_ramp": 0.1, "seed": 0}
    settings |= {"codec": {"_target_": "artdiff.diffusion.codec.Identity"}}
    torch.manual_seed(0)
    return Generation(network=NETWORK, optimizer=ADAM, scheduler=None, loss=loss, **settings | changed)


NO_TRAINER = SimpleNamespace(log_every_n_steps=1, world_size=1, sanity_checking=True)


@pytest.fixture
def no_trainer(monkeypatch):
    for name in ("log", "log_dict"):
        monkeypatch.setattr(Generation, name, lambda *args, **kwargs: None)
    monkeypatch.setattr(Generation, "trainer", NO_TRAINER)
    monkeypatch.setattr(Generation, "global_step", 0)


def pictures(count=8):
    image = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Batch(image, torch.arange(count) % 2)


def awake(model):
    """With random weights throughout, so that labels and dropout matter: at first the output is zero."""
    torch.manual_seed(0)
    for weight in model.network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return model.train()


def test_chance_depends_on_the_seed_the_images_seen_and_the_rank_only(no_trainer, monkeypatch):
    batch = pictures()
    first = awake(task()).training_step(batch, 0)
    torch.rand(5)
    assert torch.equal(first, awake(task()).training_step(batch, 3))
    assert not torch.equal(first, awake(task()).eval().training_step(batch, 0))  # without dropout
    assert not torch.equal(first, awake(task(label_dropout=1.0)).training_step(batch, 0))
    assert not torch.equal(first, awake(task(seed=1)).training_step(batch, 0))
    monkeypatch.setattr(Generation, "global_step", 1)
    model = awake(task())
    assert torch.equal(first, model.training_step(batch, 0))
    assert model.seen == 8
    assert not torch.equal(first, model.training_step(batch, 0))
    monkeypatch.setattr(Generation, "global_rank", 1)
    assert not torch.equal(first, awake(task()).training_step(batch, 0))


def test_ranks_draw_what_one_large_batch_draws(no_trainer, monkeypatch):
    def asked(model, batch):
        seen, forward = [], model.network.forward
        model.network.forward = lambda *words: seen.append(words) or forward(*words)
        model.training_step(batch, 0)
        return seen[0]

    batch = pictures()
    whole = asked(task(), batch)
    monkeypatch.setattr(Generation.trainer, "world_size", 2)
    for rank in (0, 1):
        monkeypatch.setattr(Generation, "global_rank", rank)
        model = task()
        part = asked(model, Batch(batch.image[rank::2], batch.label[rank::2], share=Share(4, 8)))
        assert all(torch.equal(one, other[rank::2]) for one, other in zip(part, whole, strict=True))
        assert model.seen == 8


def test_the_average_is_validated_in_the_same_way_every_time(no_trainer):
    model, logged = task(), []
    model.log_validation = lambda losses, count: logged.append(losses.loss.item())
    for network in (model.network, model.network, model.ema):
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        model.on_validation_epoch_start()
        model.validation_step(pictures(), 0)
        model.validation_step(pictures(3), 1)
    assert logged[:2] == logged[2:4]
    assert logged[:2] != logged[4:]


def signs(count, seed):
    """Pictures uint8 (B,3,16,16) of squares at two values: all equally hard until they are memorised."""
    found = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) < 0.5
    return (found * 128 + 64).to(torch.uint8).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def test_the_gap_opens_when_pictures_are_memorised(no_trainer, monkeypatch):
    label, logged, asked = torch.arange(4), {}, []
    trained = Batch(to_signed(signs(4, seed=1)).repeat(8, 1, 1, 1), label.repeat(8))
    held_out = [Batch(to_signed(signs(4, seed=seed)), label) for seed in (2, 3)]
    data = SimpleNamespace(
        batch_size=4, training_matches=lambda count: asked.append(count) or Batch(signs(4, seed=1)[:count], label)
    )
    trainer = SimpleNamespace(**vars(NO_TRAINER) | {"sanity_checking": False, "num_val_batches": [1]}, datamodule=data)
    monkeypatch.setattr(Generation, "trainer", trainer)
    monkeypatch.setattr(Generation, "log_dict", lambda self, found: logged.update(found))

    def gap():
        model.on_validation_epoch_start()
        for place, batch in enumerate(held_out):
            model.validation_step(batch, place)
        model.on_validation_epoch_end()
        assert model.compared_pictures == 4  # the second batch has nothing to be compared with
        relative = float(logged["gap/relative"])
        assert relative == pytest.approx(float(logged["gap/val_loss"] / logged["gap/train_loss"]) - 1, abs=1e-5)
        return relative

    model = task(label_dropout=0.0, classes=["a", "b", "c", "d"])
    assert abs(gap()) < 0.05
    optimizer = torch.optim.Adam(model.network.parameters(), lr=3e-3)
    for _ in range(50):
        optimizer.zero_grad()
        model.training_step(trained, 0).backward()
        optimizer.step()
    assert abs(gap()) < 0.05  # it is the average that paints, and that is measured
    model.ema.load_state_dict(model.network.state_dict())
    assert gap() > report.LARGE_GAP
    assert asked == [4]


def test_pictures_to_compare_with_have_the_labels_of_those_validated(art, tmp_path):
    words = ("data.image_size=16", "data.random_crop=4", "data.flip=0.5", "data.val_fraction=0.6")
    data = instantiate(small(art, tmp_path, *words)["data"])
    data.setup()
    held_out = data.val_set.labels
    assert len(held_out) > len(data.train_set)  # so some are repeated
    for count in (7, 256):
        image, label = data.training_matches(count)[:2]
        assert torch.equal(label, held_out[:count])
        assert torch.equal(image, data.training_matches(count)[0])
        for one, number in zip(image, label.tolist(), strict=True):
            of_label = data.train_set.source.read(data.train_set.indices[data.train_set.labels == number]).pixels
            middles = torch.from_numpy(of_label).permute(0, 3, 1, 2)[..., 2:18, 2:18]
            assert any(torch.equal(one, other) for other in middles)
    data.train_set.labels = torch.full_like(data.train_set.labels, -1)
    assert set(data.training_matches(7)[1].tolist()) == {-1}


def test_validation_does_not_change_training(art, tmp_path):
    states = {}
    for name, words in (("with", ()), ("without", ("trainer.limit_val_batches=0", "callbacks.best=null"))):
        own = ("trainer.max_steps=7", "data.flip=0.0", f"data.cache_dir={tmp_path}/cache_{name}")
        states[name] = _train(art, tmp_path / name, *CHANCE, *HYBRID, *own, *words)["state_dict"]
    assert all(torch.equal(value, states["without"][name]) for name, value in states["with"].items())


def test_a_painter_reports_its_gap_at_the_end(art, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run = train(small(art, tmp_path, *PAINTS))
    scores = run.metadata["scores"]
    gap = scores["gap/val_loss"] / scores["gap/train_loss"] - 1
    assert scores["gap/relative"] == pytest.approx(gap, abs=1e-6)
    assert scores["gap/val_loss"] == pytest.approx(scores["val/loss"])
    (line,) = [line for line in caplog.messages if line.startswith("memorisation gauge")]
    side = "above" if gap >= 0 else "below"
    assert f"loss on held-out pictures is {abs(gap):.0%} {side} that on training pictures (" in line
    assert "best val/loss at step 2, epoch 1: best.ckpt" in caplog.messages


@pytest.mark.parametrize(("gap", "count", "is_large"), [(0.25, 256, True), (0.15, 256, False), (0.25, 16, False)])
def test_only_a_gap_that_is_no_chance_is_advised_on(gap, count, is_large):
    model = task()
    model.compared_pictures = count
    scores = {"gap/relative": gap, "gap/train_loss": 0.4, "gap/val_loss": 0.4 * (1 + gap)}
    first, *advice = report._gauge(SimpleNamespace(lightning_module=model), scores)
    assert f"is {gap:.0%} above that on training pictures ({0.4 * (1 + gap):.3g} against 0.4, {count} of each)" in first
    assert bool(advice) == is_large


def _breaks(monkeypatch, *, at):
    backward = Generation.on_after_backward

    def broken(self):
        if self.global_step == at:
            next(self.network.parameters()).grad.fill_(math.inf)
        return backward(self)

    monkeypatch.setattr(Generation, "on_after_backward", broken)


def _weights(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize("optimizer", ["fused=true", "fused=false"])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(art, tmp_path, monkeypatch, optimizer):
    _breaks(monkeypatch, at=1)
    with pytest.raises(UserError, match=r"is NaN or infinite at step 1, .* lower optimizer.lr"):
        train(small(art, tmp_path, *PAINTS, "data.batch_size=40", "trainer.max_steps=4", f"optimizer.{optimizer}"))
    kept = _weights(tmp_path)
    assert kept["global_step"] == 1
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_a_bad_step_is_skipped_even_if_its_values_are_not_read(art, tmp_path, monkeypatch):
    monkeypatch.setattr(Generation, "reads_values", property(lambda self: self.global_step == 3))  # as on a GPU
    seen = []
    step = Generation.optimizer_step

    def watched(self, *args, **kwargs):
        step(self, *args, **kwargs)
        seen.append([weight.detach().clone() for weight in self.network.parameters()])

    monkeypatch.setattr(Generation, "optimizer_step", watched)
    _breaks(monkeypatch, at=1)
    no_saving = ("callbacks.last=null", "callbacks.best=null", "callbacks.every_ten_epochs=null")
    with pytest.raises(UserError, match="is NaN or infinite at step 1, "):
        train(small(art, tmp_path, *PAINTS, "trainer.max_steps=9", *no_saving))
    assert len(seen) == 3
    assert all(torch.equal(one, other) for one, other in zip(seen[0], seen[1], strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(seen[1], seen[2], strict=True))


def test_a_bad_step_is_not_saved_even_if_its_values_were_not_read(art, tmp_path, monkeypatch):
    monkeypatch.setattr(Generation, "reads_values", False)
    _breaks(monkeypatch, at=1)
    with pytest.raises(UserError, match="is NaN or infinite at step 1, "):
        train(small(art, tmp_path, *PAINTS, "data.batch_size=40", "trainer.max_steps=4"))
    assert _weights(tmp_path)["global_step"] == 1


def test_a_loss_that_is_not_finite_stops_too(art, tmp_path, monkeypatch):
    losses = Generation.losses

    def infinite(self, batch):
        found = losses(self, batch)
        is_bad = self.global_step == 1 and self.step.shares == []  # the first batch of the second step
        return found._replace(loss=found.loss + (math.inf if is_bad else 0))  # whose gradient is finite

    monkeypatch.setattr(Generation, "losses", infinite)
    few = ("data.batch_size=4", "+trainer.accumulate_grad_batches=2", "callbacks.grids=null")
    with pytest.raises(UserError, match="the loss or a gradient is NaN or infinite at step 1, "):
        train(small(art, tmp_path, *PAINTS, *few))


def test_a_validation_that_is_not_finite_stops_as_well(art, tmp_path, monkeypatch):
    validate = Generation.validation_step

    def spoilt(self, batch, batch_idx):
        validate(self, batch._replace(image=batch.image * math.nan), batch_idx)

    monkeypatch.setattr(Generation, "validation_step", spoilt)
    with pytest.raises(UserError, match="is NaN or infinite at step 2, "):
        train(small(art, tmp_path, *PAINTS))


@pytest.fixture(scope="module")
def run(art, tmp_path_factory):
    """Two steps with the hybrid loss."""
    folder = tmp_path_factory.mktemp("run")
    loss = ("loss=hybrid_relative", "loss.perceptual.weights=random", "loss.perceptual.layer=relu1_2")
    fast = ("optimizer.lr=1e-2", "task.ema_ramp=10", "trainer.log_every_n_steps=2")
    train(small(art, folder, *PAINTS, *loss, *fast))
    return folder


def test_both_weights_are_saved_and_the_average_paints(run):
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    raw = {name.removeprefix("network."): value for name, value in saved["state_dict"].items() if "network." in name}
    average = {name.removeprefix("ema."): value for name, value in saved["state_dict"].items() if "ema." in name}
    assert raw.keys() == average.keys()
    assert any(not torch.equal(raw[name], average[name]) for name in raw)
    model, transform, _ = restore(run / "checkpoints/last.ckpt")
    assert transform.size == 16
    assert model.classes == ["colour_field", "engraving", "flow_field", "landscape", "truchet"]
    for name, value in model.ema.state_dict().items():
        assert torch.equal(value, average[name])
    noisy, label = torch.randn(2, 3, 16, 16), torch.tensor([0, 4])
    painted = model.denoiser((label,), guidance=1.0, interval=(0, 1))(noisy, 0.5)
    torch.testing.assert_close(painted, model.ema_denoiser(noisy, torch.full((2,), 0.5), label))


def test_a_run_shows_what_it_paints_and_how_its_colours_drift(run):
    with Image.open(run / "samples/step_0000002.png") as grid:
        held_out = json.loads((run / "metadata.json").read_text())["data"]["validation"]
        assert grid.size == (min(8, held_out) * 16, 5 * 16)
    events = EventAccumulator(str(run))
    events.Reload()
    tags = events.Tags()
    assert tags["images"] == ["at a glance/pictures"]
    drifts = {f"drift/{what}_{channel}" for what in ("mean", "spread") for channel in ("red", "green", "blue")}
    names = ("loss", "mse", "weighted_mse", "perceptual")
    terms = {f"{stage}/{name}" for stage in ("train", "val") for name in names}
    bands = {f"val_time/{name}_0.00-0.25" for name in names[1:]}
    assert any(tag.startswith("train_time/mse_") for tag in tags["scalars"])
    assert drifts | terms | bands <= set(tags["scalars"])


def test_drift_is_measured_against_the_training_pictures():
    grey = Colours(torch.full((3,), 0.5), torch.full((3,), 0.2))
    redder = Colours(torch.tensor([0.7, 0.5, 0.5]), torch.tensor([0.1, 0.2, 0.2]))
    found = drift(redder, grey)
    assert found["drift/mean_red"] == pytest.approx(0.2)
    assert found["drift/spread_red"] == pytest.approx(0.5)
    assert found["drift/mean_blue"] == pytest.approx(0)
    image = torch.zeros(2, 3, 4, 4)
    image[:, 0] = 1.0
    image[:, 1, :2], image[:, 1, 2:] = -1.0, 1.0
    found = colours(image)
    torch.testing.assert_close(found.mean, torch.tensor([1.0, 0.5, 0.5]))
    torch.testing.assert_close(found.spread, torch.tensor([0.0, 0.516, 0.0]), atol=1e-3, rtol=0)


def test_the_average_follows_its_half_life(no_trainer):
    model = task(ema_half_life=64, ema_ramp=10)
    before = copy.deepcopy(model.ema.state_dict())
    for weight in model.network.parameters():
        weight.data += 1
    model.seen = 64
    model.optimizer_step(0, 0, torch.optim.SGD(model.network.parameters(), lr=0), lambda: None)
    for name, value in model.ema.state_dict().items():
        torch.testing.assert_close(value, before[name] + 0.5)
    model.train()
    assert model.network.training
    assert not any(module.training for module in model.ema.modules())


GRIDS = ("callbacks.grids.every_n_steps=4", "callbacks.grids.pictures=2")
CHANCE = ("network.dropout=0.1", "task.warmup=3", f"scheduler={STEP}")
HYBRID = ("loss=hybrid_random", "loss.perceptual.layer=relu1_2")
ACCUMULATE = ("data.batch_size=4", "+trainer.accumulate_grad_batches=2")


def _train(art, run, *overrides):
    train(small(art, run, *PAINTS, "data.batch_size=8", "data.flip=0.5", *GRIDS, *overrides))
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def uninterrupted(art, tmp_path_factory):
    """Runs of seven steps by their words."""
    runs = {}

    def run(words):
        if words not in runs:
            runs[words] = _train(art, tmp_path_factory.mktemp("whole"), *CHANCE, *words, "trainer.max_steps=7")
        return runs[words]

    return run


@pytest.mark.parametrize(("words", "stop"), [(HYBRID, 3), (HYBRID, 5), (ACCUMULATE, 3)])  # an epoch has five steps
def test_a_resumed_run_equals_an_uninterrupted_one(art, tmp_path, uninterrupted, words, stop):
    whole = uninterrupted(words)
    _train(art, tmp_path, *CHANCE, *words, f"trainer.max_steps={stop}")
    resumed = _train(art, tmp_path, *CHANCE, *words, "trainer.max_steps=7", "ckpt=last")
    assert resumed["global_step"] == whole["global_step"] == 7
    assert resumed["artdiff"] == whole["artdiff"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    assert whole["lr_schedulers"] == resumed["lr_schedulers"]
    for name, state in whole["optimizer_states"][0]["state"].items():
        again = resumed["optimizer_states"][0]["state"][name]
        assert all(torch.equal(value, again[key]) for key, value in state.items())


def test_the_learning_rate_rises_over_the_warm_up(art, tmp_path):
    steady = _train(art, tmp_path / "a", "task.warmup=2", "trainer.max_steps=4")
    rising = _train(art, tmp_path / "b", "task.warmup=7", "trainer.max_steps=4", "optimizer.lr=1e-2")
    assert steady["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(1e-3)
    assert rising["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(1e-2 * 5 / 8)


def test_a_painter_keeps_its_last_three_checkpoints_beside_last_and_best(art, tmp_path):
    few = ("trainer=cpu", "trainer.max_epochs=5", "data.batch_size=40", f"data.root={art}", f"run_dir={tmp_path}")
    every = ("callbacks.every_ten_epochs.every_n_epochs=1", "trainer.check_val_every_n_epoch=1")
    train(composed("train", "experiment=paint32", *TINY, *few, *every))
    kept = {path.stem for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"epoch_0002", "epoch_0003", "epoch_0004", "last", "last-1", "best"}
    scores = json.loads((tmp_path / "metadata.json").read_text())["scores"]
    assert [name for name in scores if name.startswith("best")] == ["best val/loss"]


def test_pictures_without_classes_train_unconditionally(art, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for index, path in enumerate(sorted(art.rglob("*.jpg"))):
        (flat / f"{index}.jpg").write_bytes(path.read_bytes())
    train(small(flat, tmp_path / "run", *PAINTS))
    assert restore(tmp_path / "run/checkpoints/last.ckpt").task.classes == []
    words = (f"ckpt={tmp_path / 'run'}", f"out={tmp_path / 'out'}", "n=2", "steps=2", "device=cpu")
    assert [path.name for path in generate(composed("generate", *words))] == ["0.png", "1.png", "sheet.png"]


def test_one_batch_can_be_overfitted(no_trainer):
    model = task(label_dropout=0.0)
    image = pictures(4).image[..., :1, :1].expand(-1, -1, 16, 16)
    batch, many = Batch(image, torch.arange(4) % 2), Batch(image.repeat(64, 1, 1, 1), torch.arange(256) % 2)
    optimizer = torch.optim.Adam(model.network.parameters(), lr=5e-3)

    def loss():
        """On the same noise and times each time."""
        with torch.no_grad():
            return model.objective(model.train_denoiser, many, PictureRandom(1, torch.arange(256)), MSE).loss.item()

    before = loss()
    for _ in range(120):
        optimizer.zero_grad()
        model.training_step(batch, 0).backward()
        optimizer.step()
    assert loss() < 0.5 * before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("task=generation",),
            "artdiff.tasks.Generation cannot train artdiff.networks.ConvDiffusionModel: set network=",
        ),
        (("network=unet",), "Reconstruction cannot train artdiff.networks.UNet: set task=generation"),
        ((*PAINTS, "network.patch=0"), "network.patch must be a whole number of at least 1, got 0"),
        ((*PAINTS, "network.channels=[]"), r"network.channels must be a list such as \[32,64\], got \[\]"),
        ((*PAINTS, "network.channels=64"), r"network.channels must be a list such as \[32,64\], got 64"),
        ((*PAINTS, "network.dropout=2"), "network.dropout must be a share from 0 to 1, got 2"),
        ((*PAINTS, "trainer.gradient_clip_val=0"), "trainer.gradient_clip_val must be more than 0, got 0"),
        ((*PAINTS, "task.gate=2"), "task.gate must be a share from 0 to 1, got 2"),
        ((*PAINTS, "task.ema_ramp=0"), "task.ema_ramp must be more than 0, got 0"),
        ((*PAINTS, "task.warmup=-1"), "task.warmup must be a whole number of at least 0"),
    ],
)
def test_a_mistake_is_reported_in_one_line(art, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        TrainSettings.of(small(art, tmp_path, *overrides))


def test_every_painting_experiment_takes_every_denoiser():
    for name, side in {"paint32": 32, "paint64": 64, "paint128": 128, "latent128": 128, "paint256": 256}.items():
        for network in ("unet", "vit", "unet_base", "vit_base"):
            config = composed("train", f"experiment={name}", f"network={network}", "run_dir=unused")
            assert config["network"]["image_size"] == side
            TrainSettings.of(config)
