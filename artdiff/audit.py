"""Report what is in a folder of pictures, without training: `python -m artdiff.audit data.root=DIR out=DIR`.

From Python: `print(artdiff.inspect("DIR"))`.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from artdiff import UserError, runs
from artdiff.cli import command, composed, given, plain, typed
from artdiff.files import make_folder, user_path, write
from artdiff.ingest import scan
from artdiff.ingest.captions import caption
from artdiff.ingest.tables import encoded
from artdiff.settings.data import AuditSettings, DataSettings

if TYPE_CHECKING:  # slow to import, so imported only after the settings are validated
    from PIL import Image

    from artdiff.ingest.index import Index

log = logging.getLogger(__name__)

CARD = "data_card.md"


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect`. As text it is the body of the data card, in Markdown.

    `index` lists every file in `index.used`, `index.copies` or `index.rejected`, a list of (file, reason).
    """

    index: "Index"
    root: Path
    settings: DataSettings

    @property
    def classes(self) -> list[str]:
        """The names of the classes, sorted."""
        return self.index.classes

    @property
    def rejected(self) -> "Sequence[tuple[str, str]]":
        """(file, reason) of every rejected file."""
        return self.index.rejected

    def __str__(self) -> str:
        from artdiff.ingest.card import report

        return report(self.index, self.root.absolute().name)

    def write(self, out: Path, *, contact_sheet: int) -> list[Path]:
        """Write tables, data card and contact sheets (`contact_sheet` pictures per class) to `out`; returns the files.

        Raises `UserError` if they cannot be written.
        """
        from artdiff import images
        from artdiff.ingest.card import data_card

        make_folder(out, name="out")
        write(out / runs.SET_ASIDE, encoded(self.index.rejections()))
        write(out / runs.MANIFEST, encoded(self.index.manifest()))
        write(out / CARD, encoded(data_card(self.index, self.root.absolute().name)))
        written = [out / name for name in (runs.SET_ASIDE, runs.MANIFEST, CARD)]
        sheets = {}
        for number, label, sheet in self._contact_sheets(contact_sheet):
            sheets[number] = out / _sheet_name(number, label)
            images.save(sheet, sheets[number])
        return written + [sheets[number] for number in sorted(sheets)]

    def _contact_sheets(self, count: int) -> "Iterator[tuple[int, str | None, Image.Image]]":
        """Yield (number, class, sheet) for each class with pictures, and for the pictures without a class.

        A sheet has at most `count` pictures, evenly spaced in the list.
        """
        from artdiff import images
        from artdiff.ingest.pool import cores, read

        labels = [*self.index.labels, None]
        by_label: dict[str | None, list[Path]] = {label: [] for label in labels}
        for picture in self.index.used:
            by_label[picture.label].append(self.root / picture.path)
        chosen = [_spread(by_label[label], count) for label in labels]
        number_of = {path: number for number, paths in enumerate(chosen) for path in paths}
        found: list[dict[Path, Image.Image | None]] = [{} for _ in labels]
        decoded = read(number_of, self.settings.limits, enough=images.CELL, processes=min(cores(), len(chosen)))
        for path, content, _, _ in decoded:
            number = number_of[path]
            found[number][path] = None if content is None else images.thumbnail(content)
            if len(found[number]) == len(chosen[number]):  # do not keep the thumbnails of all classes
                small = [(one,) for one in map(found[number].pop, chosen[number]) if one is not None]
                if small:
                    yield number, labels[number], images.sheet(small)


def inspect(folder: str | Path, **settings: Any) -> Inspection:
    """Index a folder and report which files artdiff would use, without training. New files are decoded.

    Args:
        folder: the folder of pictures.
        settings: settings of `conf/data/folder.yaml`, such as `image_size=64` or `min_side=100`.

    Raises `artdiff.UserError` if the folder has no usable picture.

    >>> import artdiff, tempfile
    >>> from artdiff.ingest import sample_art
    >>> folder = Path(tempfile.mkdtemp()) / "art"
    >>> sample_art.paint(folder, per_style=2, seed=0)
    >>> found = artdiff.inspect(folder)
    >>> found.classes
    ['colour_field', 'engraving', 'flow_field', 'landscape', 'truchet']
    >>> found.rejected
    []
    >>> print(str(found).splitlines()[2])
    10 files: 10 pictures (9 for train, 1 for validation), 0 copies of them left out, 0 set aside.
    """
    config = composed("audit", ["out=unused"])["data"]
    return _inspection(DataSettings.of(config | settings | {"root": str(folder)}))


def audit(settings: AuditSettings) -> list[Path]:
    """Write the report about a folder to `settings.out`; returns the files. Raises `UserError` if one exists."""
    out = user_path(settings.out)
    own = (runs.SET_ASIDE, runs.MANIFEST, CARD, *(path.name for path in sorted(out.glob("contact_sheet*.png"))))
    there = next((name for name in own if (out / name).exists()), None)
    if there is not None:
        raise UserError(f"out={out} holds {there} already; choose another folder")
    found = _inspection(settings.data)
    written = found.write(out, contact_sheet=settings.contact_sheet)
    log.info("\n%s", found)
    log.info("written: %s", ", ".join(str(path) for path in written))
    log.info("manifest: %s (its SHA-256; a run on these pictures stores it in %s)", found.index.digest(), runs.METADATA)
    if found.index.problem(found.root) is None:
        log.info("next:")
        words = [word for word in given() if word.startswith("data.")]
        has_captions = any(caption(picture, settings.data.captions) for picture in found.index.used)
        words += ["data.captions=auto"] * (has_captions and not any("captions=" in word for word in words))
        log.info("  %s", typed("artdiff.train", *words))
    return written


def _inspection(settings: DataSettings) -> Inspection:
    """Index the folder. Raises `UserError` if no picture can be used."""
    scan.check_root(settings)

    from dataclasses import asdict

    from artdiff.data.datamodule import ArtDataModule

    data = ArtDataModule(**asdict(settings))
    index, root = data.build_index(), data.source.root
    if not index.used:
        raise UserError(index.problem(root))
    return Inspection(index, root, settings)


def _spread(paths: list[Path], count: int) -> list[Path]:
    """At most `count` of the paths, evenly spaced."""
    step = max(1, len(paths) / max(count, 1))
    return [paths[int(place * step)] for place in range(min(count, len(paths)))]


def _sheet_name(number: int, label: str | None) -> str:
    if label is None:
        return "contact_sheet.png"
    return f"contact_sheet_{number}_{re.sub(r'[^A-Za-z0-9-]+', '_', label)[:40]}.png"


def _job(cfg: DictConfig) -> None:
    audit(AuditSettings.of(plain(cfg)))


main = command(_job, config="audit")

if __name__ == "__main__":
    main()
