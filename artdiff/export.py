"""Export a model to a folder that can be shared: `python -m artdiff.export ckpt=RUN to=DIR license=cc-by-4.0`.

`artdiff.load(DIR)` paints the same pictures as the run.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from artdiff import UserError, hub, origin, runs
from artdiff.cli import command, plain, typed
from artdiff.files import make_folder, user_path, write
from artdiff.origin import Origin
from artdiff.runs import Run
from artdiff.settings.sharing import ExportSettings

if TYPE_CHECKING:  # torch is imported only after the settings are validated
    from PIL import Image

    from artdiff.evaluation.results import Scores
    from artdiff.painter import Painter

log = logging.getLogger(__name__)

CARD, SHEET = "README.md", "sheet.png"

ROWS = 24
"""The most rows of the sheet."""


def export(settings: ExportSettings) -> list[Path]:
    """Write the model, its settings, its card and a sheet. Returns the files. Raises `UserError`."""
    to = user_path(settings.to)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"to={to} is there already: choose a new folder, or an empty one")
    chosen = runs.to_paint(settings.ckpt, newest_in=user_path(settings.runs_dir))

    from artdiff import checkpoints, exported, model_card, onnx_export
    from artdiff.painter import load

    painter = load(chosen, device=settings.device, trust_code=settings.trust_code)
    run = Run.of(chosen.checkpoint)
    facts = run.metadata if run is not None else {}
    has_sheet = painter.paints and settings.samples > 0
    card = model_card.text(settings, name=settings.name or to.resolve().name, painter=painter, facts=facts,
                           scores=_scores(run, painter), sheet=SHEET if has_sheet else None)  # fmt: skip
    networks = onnx_export.files(painter) if settings.onnx else {}
    make_folder(to, name="to")
    described = checkpoints.described(chosen.checkpoint)
    exported.save_to(to, described, painter.task.state_dict(), chosen.stored)
    written = [to / exported.MODEL, to / exported.SETTINGS]
    if has_sheet:
        written.append(to / SHEET)
        origin.save(_sheet(painter, settings), written[-1], Origin(painter.known | {"kind": "sheet"}))
    written.append(to / CARD)
    write(written[-1], card)
    for name, content in networks.items():
        written.append(to / name)
        write(written[-1], content)
    log.info("written to %s: %s", to, ", ".join(path.name for path in written))
    log.info("read its card before you share it: %s", to / CARD)
    if settings.push is not None:
        log.info("pushed to %s", hub.push(to, settings.push, public=settings.public))
    log.info("next:\n  %s", typed("artdiff.generate", f"ckpt={to}", "out=DIR"))
    return written


def _sheet(painter: "Painter", settings: ExportSettings) -> "Image.Image":
    """A row of samples for each label, at most `ROWS` labels."""
    from artdiff import images

    sheet = images.Sheet(ROWS)
    for label in (painter.classes or ["none"])[:ROWS]:
        sheet.begin(None)
        for painting in painter.paint(n=settings.samples, label=label, seed=settings.seed):
            sheet.add(painting.picture)
    return sheet.picture()


def _scores(run: Run | None, painter: "Painter") -> "Scores":
    """The scores that `artdiff.evaluate` wrote for a painter's checkpoint; empty if there are none."""
    from artdiff.evaluation import results

    path = run.folder / runs.EVALUATION / runs.SCORES if run is not None else None
    if path is None or not path.is_file():
        return results.Scores([], {})
    scores = results.read(path)
    if scores.protocol.get("checkpoint", {}).get("sha256") != painter.digest:
        log.warning("the scores in %s are of another checkpoint and are left out: evaluate the run again", path)
        return results.Scores([], {})
    return scores


def _job(cfg: DictConfig) -> None:
    export(ExportSettings.of(plain(cfg)))


main = command(_job, config="export")

if __name__ == "__main__":
    main()
