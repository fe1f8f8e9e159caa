"""The precision is the faster one of the two that are safe."""

from types import SimpleNamespace

import pytest
import torch

from artdiff import hardware

CPU = torch.device("cpu")


@pytest.mark.parametrize(("faster", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_instructions_for_bf16_are_used_only_where_they_are_faster(monkeypatch, faster, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(hardware, "_faster_in_bf16", lambda: faster)
    assert hardware.precision(CPU) == expected


def test_without_such_instructions_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(hardware, "_faster_in_bf16", lambda: pytest.fail("measured"))
    assert hardware.precision(CPU) == "32-true"


@pytest.mark.parametrize(
    ("float32", "bf16", "expected"),
    [
        ([9, 2, 2, 2, 2, 2], [9, 1, 1, 1, 1, 1], True),
        ([9, 1, 1, 1, 1, 1], [9, 2, 2, 2, 2, 2], False),
        ([1, 9, 9, 9, 9, 9], [2, 2, 2, 2, 2, 2], False),  # the machine was busy in all but one
    ],
)
def test_the_least_time_of_each_counts(monkeypatch, float32, bf16, expected):
    readings = (time for pair in zip(float32, bf16, strict=True) for seconds in pair for time in (0, seconds))
    monkeypatch.setattr(hardware, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
    assert hardware._faster_in_bf16.__wrapped__() is expected
