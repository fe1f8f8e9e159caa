"""Paint with a trained model: `python -m artdiff.generate ckpt=RUN_OR_FILE n=16 label=NAME out=DIR`."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from artdiff import runs
from artdiff.cli import command, given, plain
from artdiff.files import user_path
from artdiff.ingest.tables import shown
from artdiff.settings import GenerateSettings, defaults

if TYPE_CHECKING:  # torch is imported once the settings are accepted
    from PIL import Image

    from artdiff.evaluation.originality import Reference
    from artdiff.painter import Painter, Painting

log = logging.getLogger(__name__)


def generate(settings: GenerateSettings) -> list[Path]:
    """Paint what `settings` say; returns the files written: a PNG for each picture, then the sheet."""
    chosen = runs.to_paint(settings.ckpt, newest_in=user_path(settings.runs_dir))
    out = user_path(settings.out)

    from artdiff import hardware
    from artdiff.painter import load

    painter = load(chosen, device=settings.device, ranges=settings.ranges, trust_code=settings.trust_code)
    settings = _stored(settings, painter)
    painter.check(settings)
    log.info("painting with %s, on %s", painter.path, hardware.describe(painter.task.device))
    runs.make(out, name="out")
    written = (_paint if painter.paints else _reconstruct)(painter, settings, out)
    log.info("%s pictures written to %s", f"{len(written) - 1:,}", out)
    log.info("all on one sheet: %s", written[-1])
    return written


def _stored(settings: GenerateSettings, painter: "Painter") -> GenerateSettings:
    """`settings` with those that the run has stored, where nothing was set: neither typed nor changed otherwise."""
    typed = {word.partition("=")[0].lstrip("+") for word in given()}
    usual = defaults("generate")
    open_ones = {name for name in painter.defaults if name not in typed and getattr(settings, name) == usual[name]}
    return replace(settings, **{name: painter.defaults[name] for name in open_ones})


def _reconstruct(painter: "Painter", settings: GenerateSettings, out: Path) -> list[Path]:
    """What the model makes of each muse, and a sheet of muses over pictures."""
    from artdiff import images

    written, pairs = list[Path](), list[tuple["Image.Image", ...]]()
    for painting in painter.each(settings):
        written.append(runs.free(out / f"{painting.name}.png"))
        painting.save(written[-1])
        if len(pairs) < settings.sheet:
            assert painting.muse is not None
            pairs.append((images.thumbnail(painting.muse), images.thumbnail(painting.picture)))
    written.append(runs.free(out / "sheet.png"))
    images.save_generated(images.sheet(pairs), written[-1], painter.known)
    return written


def _paint(painter: "Painter", settings: GenerateSettings, out: Path) -> list[Path]:
    """New pictures, from noise or from each muse, and a sheet with a row for each label, behind its muse."""
    from artdiff import images
    from artdiff.evaluation.originality import Reference

    rows = painter.rows(settings)
    run = runs.Run.of(painter.path) if settings.originality else None
    reference = None if run is None else Reference.load(run.folder / runs.EVALUATION)
    paintings = painter.fill(rows, settings)
    written, sheet = list[Path](), images.Sheet(settings.sheet)
    for row in rows:
        sheet.begin(row.muse.picture if row.muse is not None else None)
        for _, made in zip(range(len(row)), paintings, strict=False):
            written.append(runs.free(out / f"{made.name}.png"))
            painting = made if reference is None else _judged(made, reference, written[-1])
            painting.save(written[-1])
            if painting.trajectory is not None:
                strip = runs.free(out / f"{painting.name}_trajectory.png")
                images.save_generated(painting.trajectory, strip, painting.settings)
            sheet.add(painting.picture)
    written.append(runs.free(out / "sheet.png"))
    images.save_generated(sheet.picture(), written[-1], painter.known)
    return written


def _judged(painting: "Painting", reference: "Reference", path: Path) -> "Painting":
    """A painting that also says how near it lies to a training picture; warns if that is suspiciously near."""
    near = reference.nearness(painting.picture)
    if near.ratio < reference.threshold:
        other = "a training picture" if near.file is None else f"the training picture {shown(near.file)}"
        log.warning("%s may be a copy of %s: look at both (ratio %.2f, threshold %.2f)", path, other, near.ratio,
                    reference.threshold)  # fmt: skip
    return painting._replace(settings=painting.settings | {"nearest_ratio": round(near.ratio, 3)})


def _job(cfg: DictConfig) -> None:
    generate(GenerateSettings.of(plain(cfg)))


main = command(_job, config="generate")

if __name__ == "__main__":
    main()
