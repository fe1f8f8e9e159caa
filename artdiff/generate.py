"""Paint with a trained model: `python -m artdiff.generate ckpt=RUN_OR_FILE muse=FILE_OR_FOLDER out=DIR`."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from PIL import Image

from artdiff import UserError, __version__, runs
from artdiff.config import MULTIPLE, check_generation, plain
from artdiff.data import cache, folder, sample_art, workers
from artdiff.data.decode import Unreadable
from artdiff.door import door

log = logging.getLogger(__name__)


def generate(cfg: DictConfig) -> list[Path]:
    """Paint what `cfg` describes → the files written: a PNG for each muse that could be read, then the sheet."""
    config = plain(cfg)
    check_generation(config)
    ckpt = runs.find_checkpoint(config["ckpt"], newest_in=Path(config["runs_dir"]), prefer=runs.BEST)
    muses = _muses(config["muse"])
    out = Path(config["out"]).expanduser()

    import torch
    from tqdm import tqdm

    from artdiff import hardware, images
    from artdiff.tasks import restore

    device = hardware.device(config["device"])
    task, image_size = restore(ckpt, ranges=config["ranges"])
    task.to(device)
    log.info("painting from %s pictures with %s, on %s", f"{len(muses):,}", ckpt, hardware.describe(device))
    runs.make(out, name="out")
    written, pairs = list[Path](), list[tuple[Image.Image, Image.Image]]()
    enough = 2 * image_size if config["size"] == "train" else None
    decoded = workers.read(muses, workers.Limits(**config["limits"]), enough=enough)
    for path, found in tqdm(decoded, total=len(muses), desc="painting", unit=" pictures", disable=None):
        try:
            muse = _sized(found, config, image_size)
        except Unreadable as reason:
            log.warning("set aside: %s (%s)", folder.shown(str(path)), reason)
            continue
        image = images.from_pillow(muse)[None].to(device)
        with torch.inference_mode():
            painted = task(images.pad_to_multiple(image, MULTIPLE))[0, :, : muse.height, : muse.width]
        picture = images.to_pillow(painted)
        settings = {"artdiff": __version__, "checkpoint": ckpt.name, "muse": path.name, "size": config["size"]}
        written.append(_free(out / f"{path.stem}.png"))
        images.save_generated(picture, written[-1], settings)
        if len(pairs) < config["sheet"]:
            pairs.append((images.thumbnail(muse), images.thumbnail(picture)))
    if not written:
        raise UserError(f"muse={config['muse']} holds no picture that can be read: {len(muses)} files set aside")
    written.append(_free(out / "sheet.png"))
    images.save_generated(images.sheet(pairs), written[-1], {"artdiff": __version__, "checkpoint": ckpt.name})
    log.info("%s pictures written to %s", f"{len(written) - 1:,}", out)
    log.info("side by side (muse over painting): %s", written[-1])
    return written


def _muses(muse: str | None) -> list[Path]:
    if muse is None:
        root = sample_art.folder(cache.default_folder())
        log.warning("muse is not set: using a picture of each style of artdiff's built-in sample art (%s)", root)
        return [min(style.iterdir()) for style in sorted(root.iterdir())]
    path = Path(muse).expanduser()
    if not path.is_dir():
        return [path]
    return [path / file.path for file in folder.scan(path, name="muse").files]


def _sized(found: Image.Image | str, config: dict[str, Any], image_size: int) -> Image.Image:
    """The muse at the size to paint at. Raises `Unreadable` where there is none, or it is too large."""
    if isinstance(found, str):
        raise Unreadable(found)
    if config["size"] == "train":
        return found.resize((image_size, image_size), Image.Resampling.LANCZOS)
    if found.width * found.height > config["max_pixels"]:
        raise Unreadable(f"{found.width} x {found.height} is more than max_pixels={config['max_pixels']:,}")
    return found


def _free(path: Path) -> Path:
    """`path`, or the same with the first number behind its name that is not taken: nothing is overwritten."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}_{number}")
    return free


main = door(generate, config="generate")

if __name__ == "__main__":
    main()
