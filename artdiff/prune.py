"""Remove cache entries that were not used for some days: `python -m artdiff.prune unused_days=30`."""

import logging
import time

from omegaconf import DictConfig

from artdiff import UserError, cache
from artdiff.cli import command, plain
from artdiff.files import printable
from artdiff.settings.data import PruneSettings

log = logging.getLogger(__name__)


def prune(settings: PruneSettings) -> int:
    """Remove cache entries not used for `unused_days`; returns the bytes freed. Raises `UserError`."""
    folder = cache.chosen_folder(settings.cache_dir)
    if not folder.is_dir():
        raise UserError(f"there is no cache in {folder}; set cache_dir or ARTDIFF_CACHE to where it is")
    freed = 0
    for one in cache.kept(folder):
        days = (time.time() - one.used) / 86400
        fate = "kept"
        if days >= settings.unused_days:
            fate = "would be removed" if settings.dry_run else "removed" if _removed(one) else "kept, in use"
            freed += 0 if fate == "kept, in use" else one.bytes
        log.info("%s: %s, %.2f GB, last used %.0f days ago", fate, one.what, one.bytes / 1e9, days)
    log.info("%.2f GB %s in %s", freed / 1e9, "would be freed" if settings.dry_run else "freed", folder)
    return freed


def _removed(one: cache.CacheEntry) -> bool:
    try:
        return cache.remove(one)
    except OSError as error:
        folder, reason = printable(str(one.paths[0].parent)), error.strerror or error
        raise UserError(
            f"{folder} cannot be pruned: {reason}; set cache_dir or ARTDIFF_CACHE to a cache of your own"
        ) from None


def _job(cfg: DictConfig) -> None:
    prune(PruneSettings.of(plain(cfg)))


main = command(_job, config="prune")

if __name__ == "__main__":
    main()
