"""Every command that the documentation shows is one that the programs accept."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import composed

from artdiff import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = re.compile(rf"python -m artdiff\.({'|'.join(cli.COMMANDS)})((?: +[^\s`|#]+)+)")
COMMANDS = sorted({found for page in PAGES for found in SHOWN.findall(page.read_text())})
OWN = [
    command for command in COMMANDS if "--config-dir" not in command[1]
]  # the others need a folder of settings of the user's own


def test_commands_are_shown():
    assert len(COMMANDS) >= 15


@pytest.mark.parametrize(("command", "words"), OWN)
def test_a_command_composes(command, words):
    overrides = [word for word in shlex.split(words) if not word.startswith(("-", "hydra."))]
    if command == "sweep":
        ours = [word for word in overrides if re.match(r"[+~]*search\b", word)]
        searched = composed("sweep", *ours)["search"]
        command, overrides = searched["command"], [word for word in overrides if word not in ours]
    if command == "train":
        overrides.append("run_dir=unused")  # the command line's own comes from Hydra
    composed(command, *(override if {*"[{"} & {*override} else override.partition(",")[0] for override in overrides))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_troubleshooting_quotes_lines_that_are_said():
    sources = [*(ROOT / "artdiff").rglob("*.py"), ROOT / "Makefile"]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text() for path in sources))
    lines = (ROOT / "docs/TROUBLESHOOTING.md").read_text().splitlines()
    rows = [line.split("|")[1] for line in lines if line.startswith("| ")]
    quoted = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    of_others = {"make: python3: No such file or directory", "Could not override", "Could not find"}  # make's, Hydra's
    assert len(quoted) > 20
    assert [text for text in quoted if text not in of_others and text not in code] == []


def test_the_readme_is_short():
    assert len(PAGES[0].read_text().splitlines()) <= 160
