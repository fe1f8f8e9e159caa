"""Paint with a trained model: `python -m artdiff.generate ckpt=RUN_OR_FILE n=16 label=NAME out=DIR`."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from artdiff import UserError, origin, runs
from artdiff.cli import command, given_names, plain
from artdiff.files import free, make_folder, user_path
from artdiff.ingest import pool
from artdiff.ingest.tables import some
from artdiff.origin import Origin
from artdiff.settings.base import defaults
from artdiff.settings.painting import GenerateSettings, PaintSettings

if TYPE_CHECKING:  # torch is imported once the settings are accepted
    from PIL import Image

    from artdiff.painter import Painter, Painting

log = logging.getLogger(__name__)


def generate(settings: GenerateSettings) -> list[Path]:
    """Paint what `settings` ask for. Returns the files written: one for each picture, then the sheet."""
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
    make_folder(out, name="out")
    files = _Files(painter, settings, out)
    if settings.repaint is not None:
        return _repaint(painter, settings, told, files)
    written = (_paint if painter.paints else _reconstruct)(painter, settings, files)
    log.info("%s pictures written to %s", f"{len(written) - 1:,}", out)
    log.info("all on one sheet: %s", written[-1])
    return written


def _stored(settings: GenerateSettings, painter: "Painter") -> GenerateSettings:
    """`settings` with the painter's defaults wherever the user neither typed nor changed a setting."""
    usual = defaults("generate")
    open_ones = {name for name in painter.defaults.keys() - given_names() if getattr(settings, name) == usual[name]}
    return replace(settings, **{name: painter.defaults[name] for name in open_ones})


def _check_alone() -> None:
    """Raise `UserError` if the user typed a setting that `from=PICTURE` takes from the picture."""
    own = {*PaintSettings.REPAINTED, "n", "label", "prompt", "word_vectors", "interpolate", "trajectory", "sheet",
           "ranges"}  # fmt: skip
    twice = sorted(given_names() & own)
    if twice:
        raise UserError(f"from=PICTURE takes its settings from the picture: leave out {', '.join(twice)}")


class _Files:
    """Writes the pictures: checks each one, signs it if a certificate is set, and picks the folder."""

    def __init__(self, painter: "Painter", settings: GenerateSettings, out: Path) -> None:
        from artdiff.signing import Signer
        from artdiff.vetting import Vetting

        self.settings, self.out = settings, out
        self.signer = Signer(settings.sign) if settings.sign.certificate is not None else None
        self.vetting = Vetting(painter, settings)
        self.held: list[Path] = []
        """Paths of the pictures that were held back."""

    def write(self, made: "Painting") -> "tuple[Path, Image.Image]":
        """Write a painting and its trajectory, into `OUT/held_back` if it does not pass the checks.

        Returns its path and the picture for the sheet, grey if it was held back.
        """
        from PIL import Image

        from artdiff.vetting import held_back

        painting, passed, remarks = self.vetting(made)
        for remark in remarks:
            log.warning("%s", remark)
        folder = self.out if passed else held_back(self.out)
        path = self._save(painting.picture, folder, painting.name, painting.origin)
        if painting.trajectory is not None:
            emerged = Origin(painting.settings | {"kind": "trajectory"}, painting.source)
            self._save(painting.trajectory, folder, f"{painting.name}_trajectory", emerged)
        if passed:
            return path, painting.picture
        self.held.append(path)
        return path, Image.new("RGB", painting.picture.size, "grey")

    def write_sheet(self, picture: "Image.Image", said: Origin) -> Path:
        """Write the sheet, always as PNG, and log how many pictures were held back. Returns its path."""
        if self.held:
            log.warning("%s held back, grey on the sheet: %s", f"{len(self.held):,}", self.held[0].parent)
        return self._save(picture, self.out, "sheet", said, end="png")

    def _save(self, picture: "Image.Image", folder: Path, name: str, said: Origin, *, end: str | None = None) -> Path:
        path = free(folder / f"{name}.{end or self.settings.format}")
        origin.save(picture, path, said, keep_settings=self.settings.keep_settings, signer=self.signer)
        return path


def _repaint(painter: "Painter", settings: GenerateSettings, told: dict[str, Any], files: _Files) -> list[Path]:
    """Paint the picture `settings.repaint` again, and log whether it is the same."""
    from artdiff import images

    assert settings.repaint is not None
    path = user_path(settings.repaint)
    muse = settings.muse if settings.refine is None else settings.refine
    painting = painter.repaint(path, muse=muse, batch_size=settings.batch_size, compile=settings.compile)
    written, _ = files.write(painting)
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


def _reconstruct(painter: "Painter", settings: GenerateSettings, files: _Files) -> list[Path]:
    """Reconstruct each muse. Writes the pictures, and a sheet with each muse above its reconstruction."""
    from artdiff import images

    written, pairs = list[Path](), list[tuple["Image.Image", ...]]()
    for painting in painter.each(settings):
        path, seen = files.write(painting)
        written.append(path)
        if len(pairs) < settings.sheet:
            assert painting.muse is not None
            pairs.append((images.thumbnail(painting.muse), images.thumbnail(seen)))
    shown_through = Origin(painter.known | {"kind": "sheet"}, "the pictures that were reconstructed")
    return [*written, files.write_sheet(images.sheet(pairs), shown_through)]


def _paint(painter: "Painter", settings: GenerateSettings, files: _Files) -> list[Path]:
    """Paint from noise or from each muse. Writes the pictures, and a sheet: a row starts with its muse, if any."""
    from artdiff import images

    parts, settings = painter.parts(settings)
    written, sheet, muses = list[Path](), images.Sheet(settings.sheet), list[str]()
    for rows in parts:
        paintings = painter.fill(rows, settings)
        for row in rows:
            sheet.begin(row.muse.picture if row.muse is not None else None)
            muses += [row.muse.credit] if row.muse is not None else []
            for _, painting in zip(range(len(row)), paintings, strict=False):
                path, seen = files.write(painting)
                written.append(path)
                sheet.add(seen)
    of_sheet = Origin(painter.known | {"kind": "sheet"}, some(muses, most=20) if muses else None)
    return [*written, files.write_sheet(sheet.picture(), of_sheet)]


def _job(cfg: DictConfig) -> None:
    generate(GenerateSettings.of(plain(cfg)))


main = command(_job, config="generate")

if __name__ == "__main__":
    main()
