"""From a folder of files to batches: `folder` finds and reads, `cache` keeps, `sampler` orders, `datamodule` serves.

Nothing is imported here, so that a door can look at a folder before torch is loaded.
"""
