"""What is in a folder of pictures, without training: `python -m artdiff.audit data.root=DIR out=DIR`."""

import logging
import re
from pathlib import Path

from omegaconf import DictConfig
from PIL import Image

from artdiff import UserError, runs
from artdiff.cli import command, given, plain, typed
from artdiff.ingest import scan
from artdiff.ingest.picture import Picture
from artdiff.ingest.pool import read
from artdiff.settings import AuditSettings, Limits, user_path

log = logging.getLogger(__name__)

MANIFEST, CARD = "manifest.tsv", "data_card.md"


def audit(cfg: DictConfig) -> list[Path]:
    """Look at every file below `data.root` → the files written to `out`, none of which was there before."""
    config = plain(cfg)
    settings = AuditSettings.of(config)
    if settings.data.root is not None and settings.data.source is None:
        scan.check(user_path(settings.data.root))
    out = Path(settings.out).expanduser()
    own = (runs.SET_ASIDE, MANIFEST, CARD, *(path.name for path in sorted(out.glob("contact_sheet*.png"))))
    there = next((name for name in own if (out / name).exists()), None)
    if there is not None:
        raise UserError(f"out={out} holds {there} already; choose another folder")

    from hydra.utils import instantiate

    from artdiff.ingest.card import data_card, report

    data = instantiate(config["data"])
    index, root = data.build_index(), data.source.root
    if not index.used:
        raise UserError(index.problem(root))
    runs.make(out, name="out")
    index.write_rejected(out / runs.SET_ASIDE)
    index.write_manifest(out / MANIFEST)
    (out / CARD).write_text(data_card(index, root.absolute().name), encoding="utf-8")
    written = [out / name for name in (runs.SET_ASIDE, MANIFEST, CARD)]
    for number, label in enumerate([*index.classes, None]):
        pictures = [picture for picture in index.used if picture.label == label]
        sheet = _contact_sheet(root, pictures, settings.contact_sheet, data.limits)
        if sheet is not None:
            written.append(out / _sheet_name(number, label))
            sheet.save(written[-1])
    log.info("\n%s", report(index, root.absolute().name))
    log.info("written: %s", ", ".join(str(path) for path in written))
    log.info("manifest: %s (its SHA-256; a run on these pictures keeps it in %s)", index.digest(), runs.METADATA)
    if {"train", "validation"} <= {picture.split for picture in index.used}:
        log.info("next:")
        log.info("  %s", typed("artdiff.train", *(word for word in given() if word.startswith("data."))))
    return written


def _sheet_name(number: int, label: str | None) -> str:
    if label is None:
        return "contact_sheet.png"
    return f"contact_sheet_{number}_{re.sub(r'[^A-Za-z0-9-]+', '_', label)[:40]}.png"


def _contact_sheet(root: Path, pictures: list[Picture], count: int, limits: Limits) -> Image.Image | None:
    """At most `count` of the pictures, spread evenly over the list; None where there are none."""
    from artdiff import images

    step = max(1, len(pictures) / count)
    spread = [root / pictures[int(place * step)].path for place in range(min(count, len(pictures)))]
    found = (picture for _, picture in read(spread, limits, enough=images.CELL))
    small = [(images.thumbnail(picture),) for picture in found if not isinstance(picture, str)]
    return images.sheet(small) if small else None


main = command(audit, config="audit")

if __name__ == "__main__":
    main()
