"""Every training and painting command that README shows is one that the commands accept."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import composed

README = (Path(__file__).parents[1] / "README.md").read_text()
COMMANDS = sorted(set(re.findall(r"python -m artdiff\.(train|generate|audit|prune)((?: +[^\s`|#]+)+)", README)))


def test_readme_shows_commands():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize(("command", "words"), COMMANDS)
def test_a_command_composes(command, words):
    overrides = [word for word in shlex.split(words) if not word.startswith(("-", "hydra."))]
    if command == "train":
        overrides.append("run_dir=unused")  # the command line's own comes from Hydra
    composed(command, *(override if "[" in override else override.partition(",")[0] for override in overrides))
