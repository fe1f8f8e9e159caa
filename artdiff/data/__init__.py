"""From the index to batches: `pixels` reads, `loader` orders and groups, `augment` varies, `datamodule` serves.

Nothing is imported here, so that a command can check a folder before torch is loaded.
"""
