"""From a folder on disk to an index: lists the files, decodes them, and decides which are used.

Nothing is imported here, so that a command can check a folder before torch is loaded.
"""
