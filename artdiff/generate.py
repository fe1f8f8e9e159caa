"""Paint with a trained model: `python -m artdiff.generate ckpt=RUN_OR_FILE n=16 label=NAME out=DIR`."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from artdiff import UserError, __version__, runs
from artdiff.cli import command, plain
from artdiff.settings import GenerateSettings

if TYPE_CHECKING:  # what is heavy is imported once the configuration has been accepted
    from PIL import Image

    from artdiff.ingest.decode import Transform
    from artdiff.tasks import Generation, Reconstruction

log = logging.getLogger(__name__)


def generate(settings: GenerateSettings) -> list[Path]:
    """Paint what `settings` say; returns the files written: a PNG for each picture, then the sheet."""
    config = asdict(settings)
    ckpt = runs.find_checkpoint(config["ckpt"], newest_in=Path(config["runs_dir"]), prefer=runs.BEST)
    out = Path(config["out"]).expanduser()

    from artdiff import checkpoints, hardware
    from artdiff.tasks import Generation

    device = hardware.device(config["device"])
    task, transform = checkpoints.restore(ckpt, ranges=config["ranges"])
    task.to(device)
    log.info("painting with %s, on %s", ckpt, hardware.describe(device))
    known: dict[str, object] = {"artdiff": __version__, "checkpoint": ckpt.name}
    if isinstance(task, Generation):
        written = _create(task, transform, config, out, known)
    else:
        written = _reconstruct(task, transform, config, out, known)
    log.info("%s pictures written to %s", f"{len(written) - 1:,}", out)
    log.info("all on one sheet: %s", written[-1])
    return written


def _job(cfg: DictConfig) -> None:
    generate(GenerateSettings.of(plain(cfg)))


def _reconstruct(
    task: "Reconstruction", transform: "Transform", config: dict[str, Any], out: Path, settings: dict[str, object]
) -> list[Path]:
    """What the model makes of each muse, and a sheet of muses over pictures."""
    from artdiff import images, painter

    for name in ("n", "label", "interpolate"):
        if config[name] is not None:
            raise UserError(f"{name}={config[name]} needs a model that paints anew; this one reconstructs its muse")
    runs.make(out, name="out")
    written, pairs = list[Path](), list[tuple["Image.Image", ...]]()
    for muse in painter.read_muses(config["muse"], config, transform):
        picture = painter.reconstruct(task, muse.picture)
        written.append(runs.free(out / f"{muse.path.stem}.png"))
        images.save_generated(picture, written[-1], settings | {"muse": muse.path.name, "size": config["size"]})
        if len(pairs) < config["sheet"]:
            pairs.append((images.thumbnail(muse.picture), images.thumbnail(picture)))
    written.append(runs.free(out / "sheet.png"))
    images.save_generated(images.sheet(pairs), written[-1], settings)
    return written


def _create(
    task: "Generation", transform: "Transform", config: dict[str, Any], out: Path, settings: dict[str, object]
) -> list[Path]:
    """New pictures, from noise or from each muse, and a sheet with a row for each label, behind its muse."""
    from artdiff import images, painter

    if config["size"] != "train":
        raise UserError(f"size={config['size']} needs a model that reconstructs; this one paints {transform.size} px")
    painter.plan(config, task.classes, [])  # an unknown label is said before anything is read or made
    runs.make(out, name="out")
    muses = list(painter.read_muses(config["muse"], config, transform)) if config["muse"] is not None else []
    rows = painter.plan(config, task.classes, muses)
    painted = painter.paint(task, [canvas for row in rows for canvas in row], config, transform.size)
    written, sheet = list[Path](), painter.Sheet(config["sheet"])
    for row in rows:
        sheet.begin(row[0].muse)
        for canvas, one in zip(row, painted, strict=False):
            written.append(runs.free(out / f"{canvas.name}.png"))
            images.save_generated(one.picture, written[-1], settings | canvas.settings)
            if config["trajectory"]:
                strip = runs.free(out / f"{canvas.name}_trajectory.png")
                images.save_generated(one.trajectory, strip, settings | canvas.settings)
            sheet.add(one.picture)
    written.append(runs.free(out / "sheet.png"))
    images.save_generated(sheet.picture(), written[-1], settings)
    return written


main = command(_job, config="generate")

if __name__ == "__main__":
    main()
