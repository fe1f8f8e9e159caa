"""From the index to batches: `pixels` reads, `loader` orders and batches, `augment` crops and flips.

`datamodule` puts these together for a folder, `streaming` for shards. Nothing is imported here, so that a command can
check a folder before torch is loaded.
"""
