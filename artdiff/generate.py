"""Paint with a trained model: `python -m artdiff.generate ckpt=RUN_OR_FILE n=16 label=NAME out=DIR`."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from artdiff import UserError, origin, runs
from artdiff.cli import command, given, plain, typed
from artdiff.files import user_path
from artdiff.ingest import pool
from artdiff.ingest.tables import shown, some
from artdiff.origin import Origin
from artdiff.settings import GenerateSettings, PaintSettings, defaults

if TYPE_CHECKING:  # torch is imported once the settings are accepted
    from PIL import Image

    from artdiff.painter import Painter, Painting

log = logging.getLogger(__name__)

HELD_BACK = "held_back"
"""The folder in `out` for pictures that lie too near to a training picture."""


def generate(settings: GenerateSettings) -> list[Path]:
    """Paint what `settings` say; returns the files written: one for each picture, then the sheet."""
    out, newest_in = user_path(settings.out), user_path(settings.runs_dir)
    told = origin.settings_of(user_path(settings.repaint)) if settings.repaint is not None else {}
    if settings.repaint is None:
        assert settings.ckpt is not None
        chosen = runs.to_paint(settings.ckpt, newest_in=newest_in)
    else:
        _check_alone()
        chosen = runs.ToPaint(runs.painted_with(told, settings.ckpt, name=settings.repaint, newest_in=newest_in))

    from artdiff import hardware
    from artdiff.painter import load

    painter = load(chosen, device=settings.device, ranges=settings.ranges, trust_code=settings.trust_code,
                   weights=told.get("weights"))  # fmt: skip
    settings = _stored(settings, painter)
    if settings.repaint is None:
        painter.check(settings)
    log.info("painting with %s, on %s", painter.path, hardware.describe(painter.task.device))
    runs.make(out, name="out")
    if settings.repaint is not None:
        return _repaint(painter, settings, told, out)
    written = (_paint if painter.paints else _reconstruct)(painter, settings, out)
    log.info("%s pictures written to %s", f"{len(written) - 1:,}", out)
    log.info("all on one sheet: %s", written[-1])
    return written


def _stored(settings: GenerateSettings, painter: "Painter") -> GenerateSettings:
    """`settings` with those that the run has stored, where nothing was set: neither typed nor changed otherwise."""
    usual = defaults("generate")
    open_ones = {name for name in painter.defaults.keys() - _names_given() if getattr(settings, name) == usual[name]}
    return replace(settings, **{name: painter.defaults[name] for name in open_ones})


def _names_given() -> set[str]:
    """The settings that were typed."""
    return {word.partition("=")[0].lstrip("+") for word in given()}


def _check_alone() -> None:
    """Raise `UserError` if settings were typed that a picture to paint again brings itself."""
    own = {*PaintSettings.REPAINTED, "n", "label", "interpolate", "trajectory", "sheet", "ranges"}
    twice = sorted(_names_given() & own)
    if twice:
        raise UserError(f"from=PICTURE paints with the settings of the picture: leave out {', '.join(twice)}")


def _repaint(painter: "Painter", settings: GenerateSettings, told: dict[str, Any], out: Path) -> list[Path]:
    """The picture `settings.repaint` once more; says whether it is the same."""
    from artdiff import images

    assert settings.repaint is not None
    path = user_path(settings.repaint)
    muse = settings.muse if settings.refine is None else settings.refine
    painting = painter.repaint(path, muse=muse, batch_size=settings.batch_size, compile=settings.compile)
    painting, place = _Copies(painter, settings, out).judged(painting)
    written = _free(place, painting.name, settings)
    painting.save(written, keep_settings=settings.keep_settings)
    log.info("painted again: %s", written)
    (before,) = pool.read([path], settings.limits)
    if before.picture is None or path.suffix.lower() != ".png":
        log.info("%s is not compared: only a PNG keeps every pixel", path)
        return [written]
    apart = images.difference(before.picture, painting.picture)
    if apart == 0:
        log.info("the same as %s, bit for bit", path)
    else:
        changed = [f"{name} {told.get(name)}, now {painter.known[name]}" for name in ("torch", "device", "artdiff")
                   if told.get(name) != painter.known[name]]  # fmt: skip
        why = f" ({'; '.join(changed)})" if changed else ""
        log.warning("not the same as %s: it differs by up to %s of 255%s", path, apart, why)
    return [written]


def _free(out: Path, name: str, settings: GenerateSettings) -> Path:
    """Where a picture of this name is written."""
    return runs.free(out / f"{name}.{settings.format}")


def _reconstruct(painter: "Painter", settings: GenerateSettings, out: Path) -> list[Path]:
    """What the model makes of each muse, and a sheet of muses over pictures."""
    from artdiff import images

    written, pairs = list[Path](), list[tuple["Image.Image", ...]]()
    for painting in painter.each(settings):
        written.append(_free(out, painting.name, settings))
        painting.save(written[-1], keep_settings=settings.keep_settings)
        if len(pairs) < settings.sheet:
            assert painting.muse is not None
            pairs.append((images.thumbnail(painting.muse), images.thumbnail(painting.picture)))
    written.append(runs.free(out / "sheet.png"))
    shown_through = Origin(painter.known | {"kind": "sheet"}, "the pictures that were reconstructed")
    origin.save(images.sheet(pairs), written[-1], shown_through, keep_settings=settings.keep_settings)
    return written


def _paint(painter: "Painter", settings: GenerateSettings, out: Path) -> list[Path]:
    """New pictures, from noise or from each muse, and a sheet with a row for each label, behind its muse."""
    from PIL import Image

    from artdiff import images

    rows, copies = painter.rows(settings), _Copies(painter, settings, out)
    paintings = painter.fill(rows, settings)
    written, sheet = list[Path](), images.Sheet(settings.sheet)
    for row in rows:
        sheet.begin(row.muse.picture if row.muse is not None else None)
        for _, made in zip(range(len(row)), paintings, strict=False):
            painting, place = copies.judged(made)
            written.append(_free(place, painting.name, settings))
            painting.save(written[-1], keep_settings=settings.keep_settings)
            if painting.trajectory is not None:
                strip = _free(place, f"{painting.name}_trajectory", settings)
                emerged = Origin(painting.settings | {"kind": "trajectory"}, painting.source)
                origin.save(painting.trajectory, strip, emerged, keep_settings=settings.keep_settings)
            sheet.add(painting.picture if place == out else Image.new("RGB", painting.picture.size, "grey"))
    if copies.held:
        log.warning("%s held back, grey on the sheet: %s", f"{copies.held:,}", copies.folder)
    written.append(runs.free(out / "sheet.png"))
    muses = [row.muse.credit for row in rows if row.muse is not None]
    of_sheet = Origin(painter.known | {"kind": "sheet"}, some(muses, most=20) if muses else None)
    origin.save(sheet.picture(), written[-1], of_sheet, keep_settings=settings.keep_settings)
    return written


class _Copies:
    """Looks at painted pictures for those that lie too near to a training picture, as far as the run was evaluated."""

    def __init__(self, painter: "Painter", settings: GenerateSettings, out: Path) -> None:
        from artdiff.evaluation.originality import Reference

        run = runs.Run.of(painter.path) if settings.originality or settings.hold_back else None
        self.reference = None if run is None else Reference.load(run.folder / runs.EVALUATION)
        if settings.hold_back and self.reference is None:
            raise UserError(f"hold_back=true needs a run that was evaluated: {typed('artdiff.evaluate', 'ckpt=RUN')}")
        self.out, self.folder = out, out / HELD_BACK
        self.hold_back = settings.hold_back
        self.held = 0

    def judged(self, painting: "Painting") -> "tuple[Painting, Path]":
        """The painting, which says how near it lies to a training picture, and the folder it is for."""
        if self.reference is None:
            return painting, self.out
        near, threshold = self.reference.nearness(painting.picture), self.reference.threshold
        painting = painting._replace(settings=painting.settings | {"nearest_ratio": round(near.ratio, 3)})
        if near.ratio >= threshold:
            return painting, self.out
        other = "a training picture" if near.file is None else f"the training picture {shown(near.file)}"
        told = (painting.name, other, near.ratio, threshold)
        log.warning("%s may be a copy of %s: look at both (ratio %.2f, threshold %.2f)", *told)
        if not self.hold_back:
            return painting, self.out
        self.held += 1
        runs.make(self.folder, name="out")
        return painting, self.folder


def _job(cfg: DictConfig) -> None:
    generate(GenerateSettings.of(plain(cfg)))


main = command(_job, config="generate")

if __name__ == "__main__":
    main()
