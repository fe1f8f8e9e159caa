"""From a folder on disk to an index: which files there are, what is in each, and which are used.

Nothing is imported here, so that a command can check a folder before torch is loaded.
"""
