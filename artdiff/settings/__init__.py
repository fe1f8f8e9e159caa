"""What every command accepts: frozen dataclasses that check their values when they are made. Free of torch.

The command line, the Python API, the tests and the benchmarks all build these. A field's range stands beside its type,
and a choice is listed once. Defaults live in `conf/` and nowhere else: `defaults("generate")` reads them for Python.

These are not Hydra's structured configs, which were considered. Those report a mistake over several lines before our
code runs, cannot say `"auto" | bool`, do not run `__post_init__` on frozen classes while composing, and reject the keys
of a network or loss that a user wrote. So Hydra composes plain YAML, and the result is checked here as a whole.
"""
