"""Score a trained model on held-out pictures: `python -m artdiff.evaluate ckpt=RUN`.

From Python: `print(artdiff.evaluate("RUN"))`.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from artdiff import UserError, runs
from artdiff.cli import callable_module, command, composed, given_names, plain, user_error
from artdiff.files import is_url, user_path, write
from artdiff.ingest import scan
from artdiff.runs import Run
from artdiff.settings.base import defaults
from artdiff.settings.data import DATA
from artdiff.settings.evaluation import EvaluateSettings

if TYPE_CHECKING:  # slow to import, so only after the settings are validated
    from artdiff.data.base import PictureDataModule
    from artdiff.evaluation.results import Scores
    from artdiff.painter import Painter

log = logging.getLogger(__name__)


def evaluate(run: Run | str | Path, **settings: Any) -> "Scores":
    """Score a model that paints or reconstructs.

    Args:
        run: what `artdiff.train` returned, a run's folder, a checkpoint, or `"last"` for the newest run.
        settings: settings of `conf/evaluate.yaml`, such as `n=500`, `guidance=2.0`, `data="DIR"` or
            `compare={"guidance": [1.0, 2.0]}`.

    Raises `artdiff.UserError`.
    """
    known, asked = composed("evaluate", ["ckpt=unused"]), {*settings}
    if isinstance(settings.get("data"), str | Path):
        settings["data"] = {"root": str(settings["data"])}
    nested = {name: known[name] | settings.pop(name, {}) for name in ("data", "compare")}
    ckpt = str(run.folder if isinstance(run, Run) else run)
    return _evaluate(EvaluateSettings.of(known | settings | nested | {"ckpt": ckpt}), asked=asked)


def _evaluate(settings: EvaluateSettings, *, asked: Set[str]) -> "Scores":
    """Score a model. `asked` has the names of the settings that the user gave, even if to their defaults."""
    if settings.data.root is not None and not is_url(settings.data.root):
        scan.check(user_path(settings.data.root))
    ckpt = runs.find_checkpoint(settings.ckpt, newest_in=user_path(settings.runs_dir), prefer=runs.BEST)
    run = Run.of(ckpt)
    if settings.out is None and run is None:
        raise UserError(f"ckpt={settings.ckpt} is not in a run's folder: give out=DIR")
    if settings.store and (run is None or not os.access(run.folder, os.W_OK)):
        raise UserError(
            f"store=true writes into the run's folder, and ckpt={settings.ckpt} has none that can be written"
        )
    folder = user_path(settings.out) if settings.out is not None else run.folder / runs.EVALUATION  # type: ignore[union-attr]
    kept = (run.folder / runs.EVALUATION if run is not None and os.access(run.folder, os.W_OK) else folder) / "kept"

    from artdiff.evaluation import choosing, features, report, scoring

    candidates, load = choosing.candidates(ckpt, settings), choosing.Loader(settings)
    painter = load(candidates[0])
    fitted = _with_trained_settings(settings, painter, asked)
    if fitted != settings:
        settings = fitted
        candidates, load = choosing.candidates(ckpt, settings), choosing.Loader(settings)
    if not painter.paints and (settings.compare.asks or settings.store):
        raise UserError(f"compare and store need a model that paints new pictures; {ckpt} reconstructs pictures")
    data = _data(settings, run, painter)
    facts = run.metadata if run is not None else {}
    trained_on = facts.get("data", {}).get("manifest") or painter.data  # a checkpoint without a run has it itself
    is_own = data.manifest == trained_on
    settings = settings if is_own or not painter.paints else _without_training_checks(settings)
    if not painter.paints:
        found = scoring.reconstruction(candidates[0], load, data, settings)
    else:
        networks = [
            features.load(name, settings.feature_weights.get(name), painter.task.device) for name in settings.features
        ]
        found = scoring.painting(candidates, load, data, networks, settings, kept=kept)
    found = found.write(folder)
    name = (run.folder if run is not None else ckpt).resolve().name
    write(folder / runs.REPORT, report.page(found, name=name, facts=facts, card=data.card() if is_own else None))
    if run is not None and settings.out is None and settings.data.root is None:
        _log(found, run)
    log.info("\n%s\n", found)
    log.info("written: %s and %s", found.file, folder / runs.REPORT)
    if settings.store and run is not None:
        _store(found, run)
    return found


def _with_trained_settings(settings: EvaluateSettings, painter: "Painter", asked: Set[str]) -> EvaluateSettings:
    """Return `settings` with the values that the model was trained for, such as few steps, unless the user set them."""
    usual = defaults("evaluate")
    made_for = {name: value for name, value in painter.made_for.items() if name not in asked}
    return dataclasses.replace(
        settings, **{name: value for name, value in made_for.items() if getattr(settings, name) == usual[name]}
    )


def _without_training_checks(settings: EvaluateSettings) -> EvaluateSettings:
    """Return `settings` without the checks that need the training pictures. Raises `UserError` if `store` is set."""
    if settings.store:
        raise UserError("store=true needs the pictures that the run was trained on, and these are others")
    if settings.originality or settings.representation:
        log.warning("no check for copies and preferences: these are not the pictures that the run was trained on")
    return dataclasses.replace(settings, originality=False, representation=0)


def _data(settings: EvaluateSettings, run: Run | None, painter: "Painter") -> "PictureDataModule":
    """The data module of a run, with its training and held-out pictures, or the same for another folder."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    config = run.folder / runs.CONFIG if run is not None else None
    if config is not None and config.exists():
        kept: Any = OmegaConf.to_container(OmegaConf.load(config), resolve=True)
        known = kept["data"]
        if not settings.trust_code:
            if known.get("_target_") not in DATA or known.get("source") is not None:
                raise UserError(
                    f"{config} names code outside artdiff for its data: pass trust_code=true if you trust it"
                )
            ours = {name: value for name, value in known.items() if not name.startswith("_")}
            known = {"_target_": known["_target_"], "_convert_": "all", "_recursive_": False, **ours}
        if settings.data.root is not None and known.get("source") is not None:
            raise UserError(f"data.root={settings.data.root} cannot replace the data.source of the run")
    elif settings.data.root is not None:
        known = composed("train", ["run_dir=unused"])["data"]
        size, fit, background = painter.transform
        known |= {"image_size": size, "fit": fit, "background": "#{:02x}{:02x}{:02x}".format(*background)}
    else:
        raise UserError(f"ckpt={settings.ckpt} does not say which pictures it was trained on: set data.root=DIR")
    root = {} if settings.data.root is None else {"root": settings.data.root}
    try:
        data: PictureDataModule = instantiate(known | {"train_crop": None} | root)
    except InstantiationException as error:  # Hydra wraps our UserError
        raise (user_error(error) or error) from None
    data.setup()
    return data


def _store(found: "Scores", run: Run) -> None:
    """Write the best candidate to `painting.json`, which `artdiff.painter.load` reads.

    Raises `UserError` if it cannot be written.
    """
    best = found.choices[0]
    distance = f"Fréchet distance {best.frechet.value:.4g} by {found.scored[0].features}"
    why = f"the best of {len(found.choices)} ways to paint, {distance}, {found.scored[0].count:,} pictures"
    stored = runs.StoredSampling(best.checkpoint, best.sha256, best.weights, best.settings, why)
    write(run.folder / runs.PAINTING, json.dumps(dataclasses.asdict(stored), indent=1) + "\n")
    log.info("stored in %s: %s; %s", run.folder / runs.PAINTING, best.name, why)


def _log(found: "Scores", run: Run) -> None:
    """Write the scores to the run's TensorBoard log, at the step of its checkpoint."""
    from torch.utils.tensorboard import SummaryWriter

    folder = runs.events(run.folder)
    if not any(folder.glob("events.*")):
        return
    step = int(run.metadata.get("steps", 0))
    with SummaryWriter(str(folder)) as writer:
        for name, value in found.scalars().items():
            writer.add_scalar(f"evaluation/{name}", value, step)
        writer.add_text("evaluation", f"```\n{found}\n```", step)


def _job(cfg: DictConfig) -> float:
    """Run the command. Returns what a sweeper minimises: the best Fréchet distance, or the negative PSNR."""
    found = _evaluate(EvaluateSettings.of(plain(cfg)), asked=given_names())
    best = (found.choices or found.scored)[:1]
    return best[0].frechet.value if best else -found.reconstruction["psnr"]


main = command(_job, config="evaluate")


callable_module(__name__, evaluate)

if __name__ == "__main__":
    main()
