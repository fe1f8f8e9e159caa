"""What is in a folder of pictures, without training: `python -m artdiff.audit data.root=DIR out=DIR`.

From Python: `print(artdiff.inspect("DIR"))`.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from artdiff import UserError, runs
from artdiff.cli import command, composed, given, plain, typed
from artdiff.files import user_path, write
from artdiff.ingest import scan
from artdiff.settings import AuditSettings, DataSettings

if TYPE_CHECKING:  # slow to import: only once the settings are accepted
    from PIL import Image

    from artdiff.ingest.index import Index
    from artdiff.ingest.picture import Picture

log = logging.getLogger(__name__)

MANIFEST, CARD = "manifest.tsv", "data_card.md"


@dataclass(frozen=True)
class Inspection:
    """What artdiff makes of a folder. As text it is the data card's body, in Markdown.

    `index` has every file: `index.used`, `index.copies` and `index.rejected`, a list of (file, reason).
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
        """(file, reason) of every file that is not used."""
        return self.index.rejected

    def __str__(self) -> str:
        from artdiff.ingest.card import report

        return report(self.index, self.root.absolute().name)

    def write(self, out: Path, *, contact_sheet: int) -> list[Path]:
        """Write lists, data card and contact sheets of so many pictures per class to `out`; returns the files.

        Raises `UserError` if they cannot be written.
        """
        from artdiff import images
        from artdiff.ingest.card import data_card

        runs.make(out, name="out")
        self.index.write_rejected(out / runs.SET_ASIDE)
        self.index.write_manifest(out / MANIFEST)
        write(out / CARD, data_card(self.index, self.root.absolute().name))
        written = [out / name for name in (runs.SET_ASIDE, MANIFEST, CARD)]
        for number, label in enumerate([*self.classes, None]):
            pictures = [picture for picture in self.index.used if picture.label == label]
            sheet = self._contact_sheet(pictures, contact_sheet)
            if sheet is not None:
                written.append(out / _sheet_name(number, label))
                images.save(sheet, written[-1])
        return written

    def _contact_sheet(self, pictures: "Sequence[Picture]", count: int) -> "Image.Image | None":
        """At most `count` of the pictures, spread evenly over the list; None if there are none."""
        from artdiff import images
        from artdiff.ingest.pool import read

        step = max(1, len(pictures) / count)
        spread = [self.root / pictures[int(place * step)].path for place in range(min(count, len(pictures)))]
        found = (picture for _, picture in read(spread, self.settings.limits, enough=images.CELL))
        small = [(images.thumbnail(picture),) for picture in found if not isinstance(picture, str)]
        return images.sheet(small) if small else None


def inspect(folder: str | Path, **settings: Any) -> Inspection:
    """Look at every file of a folder, decode what is new, and say what artdiff would use of it, without training.

    Args:
        folder: the folder of pictures.
        settings: of `conf/data/folder.yaml`, such as `image_size=64` or `min_side=100`.

    Raises `artdiff.UserError` if the folder holds no picture that can be used.

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
    """Write what is in a folder to `settings.out`; returns the files, none of which was there before."""
    out = user_path(settings.out)
    own = (runs.SET_ASIDE, MANIFEST, CARD, *(path.name for path in sorted(out.glob("contact_sheet*.png"))))
    there = next((name for name in own if (out / name).exists()), None)
    if there is not None:
        raise UserError(f"out={out} holds {there} already; choose another folder")
    found = _inspection(settings.data)
    written = found.write(out, contact_sheet=settings.contact_sheet)
    log.info("\n%s", found)
    log.info("written: %s", ", ".join(str(path) for path in written))
    log.info("manifest: %s (its SHA-256; a run on these pictures keeps it in %s)", found.index.digest(), runs.METADATA)
    if found.index.problem(found.root) is None:
        log.info("next:")
        log.info("  %s", typed("artdiff.train", *(word for word in given() if word.startswith("data."))))
    return written


def _inspection(settings: DataSettings) -> Inspection:
    """Raises `UserError` if no picture can be used."""
    if settings.root is not None and settings.source is None:
        scan.check(user_path(settings.root))

    from dataclasses import asdict

    from artdiff.data.datamodule import ArtDataModule

    data = ArtDataModule(**asdict(settings))
    index, root = data.build_index(), data.source.root
    if not index.used:
        raise UserError(index.problem(root))
    return Inspection(index, root, settings)


def _sheet_name(number: int, label: str | None) -> str:
    if label is None:
        return "contact_sheet.png"
    return f"contact_sheet_{number}_{re.sub(r'[^A-Za-z0-9-]+', '_', label)[:40]}.png"


def _job(cfg: DictConfig) -> None:
    audit(AuditSettings.of(plain(cfg)))


main = command(_job, config="audit")

if __name__ == "__main__":
    main()
