"""Score a trained model on held-out pictures: `python -m artdiff.evaluate ckpt=RUN`.

From Python: `print(artdiff.evaluate("RUN"))`.
"""

import dataclasses
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from artdiff import UserError, runs
from artdiff.cli import callable_module, command, composed, plain, user_error
from artdiff.files import is_url, user_path, write
from artdiff.ingest import scan
from artdiff.runs import Run
from artdiff.settings import DATA, EvaluateSettings

if TYPE_CHECKING:  # slow to import: only once the settings are accepted
    from artdiff.data.base import PictureDataModule
    from artdiff.evaluation.scores import Scores
    from artdiff.painter import Painter

log = logging.getLogger(__name__)

EVALUATION = "evaluation"
"""In a run's folder, where its scores go, and below it what is kept for the next call."""

REPORT = "report.html"

NAMES = {"averaged": "averaged weights", "raw": "raw weights"}


def evaluate(run: Run | str | Path, **settings: Any) -> "Scores":
    """Score a model that paints or reconstructs.

    Args:
        run: what `artdiff.train` returned, a run's folder, a checkpoint, or `"last"`.
        settings: of `conf/evaluate.yaml`, such as `n=500`, `guidance=2.0` or `data={"root": "DIR"}`.

    Raises `artdiff.UserError`.
    """
    known = composed("evaluate", ["ckpt=unused"])
    data = known["data"] | settings.pop("data", {})
    ckpt = str(run.folder if isinstance(run, Run) else run)
    return _evaluate(EvaluateSettings.of(known | settings | {"data": data, "ckpt": ckpt}))


def _evaluate(settings: EvaluateSettings) -> "Scores":
    if settings.data.root is not None and not is_url(settings.data.root):
        scan.check(user_path(settings.data.root))
    ckpt = runs.find_checkpoint(settings.ckpt, newest_in=user_path(settings.runs_dir), prefer=runs.BEST)

    from artdiff.evaluation import features, report, scores
    from artdiff.painter import load

    run = ckpt.parents[1] if ckpt.parent.name == runs.CHECKPOINTS else None
    if settings.out is None and run is None:
        raise UserError(f"ckpt={settings.ckpt} is not in a run's folder: give out=DIR")
    folder = user_path(settings.out) if settings.out is not None else run / EVALUATION  # type: ignore[operator]
    kept = (run / EVALUATION if run is not None and os.access(run, os.W_OK) else folder) / "kept"
    painter = load(ckpt, device=settings.device, trust_code=settings.trust_code)
    data = _data(settings, run, painter)
    trained_on = Run(run).metadata.get("data", {}).get("manifest") if run is not None else None
    if painter.paints and settings.originality and data.manifest != trained_on:
        log.warning("copies are not looked for: these are not the pictures that the run was trained on")
        settings = dataclasses.replace(settings, originality=False)
    if not painter.paints:
        found = scores.reconstruction(painter, data, settings)
    else:
        networks = [
            features.load(name, settings.feature_weights.get(name), painter.task.device) for name in settings.features
        ]
        painters = {NAMES[kind]: _with_weights(painter, kind, settings) for kind in settings.weights}
        found = scores.painting(painters, data, networks, settings, kept)
    found = found.write(folder)
    name = (run or ckpt).resolve().name
    write(folder / REPORT, report.page(found, name=name, facts=Run(run).metadata if run is not None else {}))
    if run is not None and settings.out is None and settings.data.root is None:
        _log(found, run)
    log.info("\n%s\n", found)
    log.info("written: %s and %s", found.file, folder / REPORT)
    return found


def _data(settings: EvaluateSettings, run: Path | None, painter: "Painter") -> "PictureDataModule":
    """The pictures that a run was trained on and those it held out, or those of another folder."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    config = run / runs.CONFIG if run is not None else None
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
        known |= {"image_size": painter.image_size, "fit": painter.transform.fit}
    else:
        raise UserError(f"ckpt={settings.ckpt} does not say which pictures it was trained on: give data.root=DIR")
    root = {} if settings.data.root is None else {"root": settings.data.root}
    try:
        data: PictureDataModule = instantiate(known | {"train_crop": None} | root)
    except InstantiationException as error:  # Hydra's, around a mistake that we know
        raise (user_error(error) or error) from None
    data.setup()
    return data


def _with_weights(painter: "Painter", kind: str, settings: EvaluateSettings) -> "Painter":
    """A painter with the averaged weights, which it has, or with those that were trained."""
    if kind == "averaged":
        return painter

    from artdiff.painter import load
    from artdiff.tasks import Generation

    other = load(painter.path, device=settings.device, trust_code=settings.trust_code)
    assert isinstance(other.task, Generation)
    other.task.ema.load_state_dict(other.task.network.state_dict())
    return other


def _log(found: "Scores", run: Path) -> None:
    """Show the scores on the board of the run, at the step of its checkpoint."""
    from torch.utils.tensorboard import SummaryWriter

    folder = run / "tensorboard"
    if not folder.is_dir():
        return
    step = int(Run(run).metadata.get("steps", 0))
    with SummaryWriter(str(folder)) as writer:
        for name, value in found.scalars().items():
            writer.add_scalar(f"evaluation/{name}", value, step)


def _job(cfg: DictConfig) -> float:
    """What the command does; a sweeper minimises the result, the first Fréchet distance."""
    found = _evaluate(EvaluateSettings.of(plain(cfg)))
    return found.scored[0].frechet.value if found.scored else -found.reconstruction["psnr"]


main = command(_job, config="evaluate")


callable_module(__name__, evaluate)

if __name__ == "__main__":
    main()
