"""The precision is the faster one of the two that are safe."""

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


def test_what_is_measured_is_the_same_every_time():
    assert len({hardware._faster_in_bf16.__wrapped__() for _ in range(10)}) == 1
