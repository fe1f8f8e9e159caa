"""Write decoded pictures to shards for `data=stream`: `python -m artdiff.pack data.root=DIR out=DIR_OR_URL`."""

import logging
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from artdiff.cli import command, plain, typed
from artdiff.ingest import scan
from artdiff.settings.data import PackSettings

if TYPE_CHECKING:  # slow to import, so imported only after the settings are validated
    from artdiff.data.shards import ShardIndex

log = logging.getLogger(__name__)


def pack(settings: PackSettings) -> "ShardIndex":
    """Write the pictures of a folder to shards in `settings.out`. Raises `UserError`."""
    scan.check_root(settings.data)

    from dataclasses import asdict

    from artdiff.data import packing
    from artdiff.data.datamodule import ArtDataModule
    from artdiff.data.storage import storage

    found = packing.pack(
        ArtDataModule(**asdict(settings.data)), storage(settings.out), megabytes=settings.shard_megabytes
    )
    total = sum(one.entry.bytes for one in found.shards)
    log.info("written: %s shards, %.2f GB in all, to %s", f"{len(found.shards):,}", total / 1e9, settings.out)
    size = f"data.image_size={settings.data.image_size}"
    crop = [f"data.random_crop={settings.data.random_crop}"] if settings.data.random_crop else []
    captions = ["data.captions=auto"] if settings.data.captions != "none" else []
    log.info("next:")
    log.info("  %s", typed("artdiff.train", "data=stream", f"data.root={settings.out}", size, *crop, *captions))
    return found


def _job(cfg: DictConfig) -> None:
    pack(PackSettings.of(plain(cfg)))


main = command(_job, config="pack")

if __name__ == "__main__":
    main()
