"""Write a model as a folder to give away: `python -m artdiff.export ckpt=RUN to=DIR license=cc-by-4.0`.

`artdiff.load(DIR)` paints the same pictures as the run.
"""

import json
import logging
from pathlib import Path

from omegaconf import DictConfig

from artdiff import UserError, hub, origin, runs
from artdiff.cli import command, plain, typed
from artdiff.files import user_path, write
from artdiff.origin import Origin
from artdiff.runs import Run
from artdiff.settings import ExportSettings

log = logging.getLogger(__name__)

CARD, SHEET = "README.md", "sheet.png"


def export(settings: ExportSettings) -> list[Path]:
    """Write the model, its settings, its card and a sheet; returns the files. Raises `UserError`."""
    to = user_path(settings.to)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"to={to} is there already: choose a folder that is not, or an empty one")
    chosen = runs.to_paint(settings.ckpt, newest_in=user_path(settings.runs_dir))

    from artdiff import checkpoints, exported, images, model_card
    from artdiff.painter import load

    painter = load(chosen, device=settings.device, trust_code=settings.trust_code)
    run = Run.of(chosen.checkpoint)
    runs.make(to, name="to")
    exported.save_to(to, checkpoints.described(chosen.checkpoint), painter.task.state_dict())
    written = [to / exported.MODEL, to / exported.SETTINGS]
    if chosen.stored is not None:
        log.info("its stored way to paint is written into the card; who loads the folder has to ask for it")
    if painter.paints and settings.samples:
        sheet = images.Sheet(24)
        for label in painter.classes or ["none"]:
            sheet.begin(None)
            for painting in painter.paint(n=settings.samples, label=label, seed=settings.seed):
                sheet.add(painting.picture)
        written.append(to / SHEET)
        origin.save(sheet.picture(), written[-1], Origin(painter.known))
    scores = _scores(run)
    facts = run.metadata if run is not None else {}
    card = model_card.text(settings, name=settings.name or to.resolve().name, painter=painter, facts=facts,
                           scores=scores, sheet=SHEET if len(written) > 2 else None)  # fmt: skip
    written.append(to / CARD)
    write(written[-1], card)
    log.info("written to %s: %s", to, ", ".join(path.name for path in written))
    log.info("read its card before you give it away: %s", to / CARD)
    if settings.push is not None:
        log.info("pushed to %s", hub.push(to, settings.push, public=settings.public))
    log.info("next:\n  %s", typed("artdiff.generate", f"ckpt={to}", "out=DIR"))
    return written


def _scores(run: Run | None) -> dict[str, object]:
    """What `artdiff.evaluate` has found out about a run; empty if nothing."""
    path = run.folder / runs.EVALUATION / runs.SCORES if run is not None else None
    return json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}


def _job(cfg: DictConfig) -> None:
    export(ExportSettings.of(plain(cfg)))


main = command(_job, config="export")

if __name__ == "__main__":
    main()
