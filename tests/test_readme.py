"""Every training and painting command that README shows is one that the doors accept."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import composed

README = (Path(__file__).parents[1] / "README.md").read_text()
COMMANDS = sorted(set(re.findall(r"python -m artdiff\.(train|generate|audit|prune)((?: +[^\s`|#]+)+)", README)))


def test_readme_shows_commands():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize(("door", "words"), COMMANDS)
def test_a_command_composes(door, words):
    overrides = [word for word in shlex.split(words) if not word.startswith(("-", "hydra."))]
    composed(door, *(override if "[" in override else override.partition(",")[0] for override in overrides))
