"""Imports point one way: from the commands down to settings, store and images. docs/ARCHITECTURE.md draws it."""

import ast
from pathlib import Path

import pytest

import artdiff

ROOT = Path(artdiff.__file__).parent

FLOORS = [
    {"files", "locks", "hub"},
    {"rules", "ranks", "sharding", "words"},
    {"settings", "runs", "store", "images", "compiled", "hardware", "progress", "onnx_paint", "word_vectors"},
    {"exported", "cache", "networks", "diffusion", "picture_cache", "stages", "signing", "classifier"},
    {"ingest", "losses", "origin"},
    {"data"},
    {"tasks"},
    {"checkpoints", "overrides", "sweeps"},
    {"cli", "slurm"},
    {"painting"},
    {"painter"},
    {"evaluation"},
    {"training", "model_card", "vetting", "onnx_export", "pipeline"},
    {"web"},
    {"train", "generate", "evaluate", "gallery", "export", "audit", "pack", "prune", "sweep"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def _imported(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.ImportFrom) and node.level), "relative imports hide where they point"
        if isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("artdiff.")}
        if isinstance(node, ast.ImportFrom) and node.module == "artdiff":
            rooms |= {alias.name for alias in node.names if alias.name in FLOOR}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("artdiff."):
            rooms.add(node.module.split(".")[1])
    return rooms


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def test_networks_know_torch_alone():
    for path in (ROOT / "networks").glob("*.py"):
        text = path.read_text()
        assert not any(f"import {name}" in text or f"from {name}" in text for name in ("lightning", "hydra"))


def test_every_room_has_a_floor():
    assert {_room(path) for path in FILES} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    room = _room(path)
    for other in _imported(path) - {room}:
        assert FLOOR[other] < FLOOR[room], f"{room} must not import {other}"
