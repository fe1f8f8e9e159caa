"""The settings of every command: frozen dataclasses that check their values when they are built. No torch imports.

The command line, the Python API, the tests and the benchmarks all build these. A field's annotation holds its type and
range, and each choice is listed once. Defaults live only in `conf/`; `defaults("generate")` reads them for Python.

Hydra's structured configs were considered. They report a mistake over several lines before our code runs, do not
support `"auto" | bool`, do not run `__post_init__` on frozen classes while composing, and reject the arguments of a
user's own network or loss. So Hydra composes plain YAML, and the result is checked here as a whole.
"""
