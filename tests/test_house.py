"""Imports point one way: doors → callbacks → tasks → losses, networks, data → images."""

import ast
from pathlib import Path

import pytest

import artdiff

ROOT = Path(artdiff.__file__).parent

FLOORS = [
    {"images", "runs"},
    {"hardware", "data", "networks", "losses", "metrics"},
    {"tasks", "config", "door"},
    {"callbacks"},
    {"train", "generate"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def _imported(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "artdiff":
            rooms |= {alias.name for alias in node.names if alias.name in FLOOR}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("artdiff."):
            rooms.add(node.module.split(".")[1])
    return rooms


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def test_every_room_has_a_floor():
    assert {_room(path) for path in FILES} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    room = _room(path)
    for other in _imported(path) - {room}:
        assert FLOOR[other] < FLOOR[room], f"{room} must not import {other}"
