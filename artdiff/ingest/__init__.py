"""Disk to index: which files a folder holds, what is in each, and which are used.

Nothing is imported here, so that a command can look at a folder before torch is loaded.
"""
