"""Rules for the values of settings: each checks one value and raises `UserError` with one line."""

import math
from collections.abc import Callable
from typing import Any

from PIL import ImageColor

from artdiff import UserError

Rule = Callable[[str, Any], None]
"""Called with a setting's name and value; raises `UserError` if the value is not allowed."""


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def whole_number(name: str, value: Any) -> None:
    if not is_whole(value):
        raise UserError(f"{name} must be a whole number, got {value}")


def whole(least: int, most: int | None = None) -> Rule:
    def check(name: str, value: Any) -> None:
        if not is_whole(value) or value < least or (most is not None and value > most):
            limits = f"at least {least}" if most is None else f"{least} to {most}"
            raise UserError(f"{name} must be a whole number of {limits}, got {value}")

    return check


def none_or_some(name: str, value: Any) -> None:
    """Rule: 0, or at least 2, as many pictures as a variance needs."""
    whole(0)(name, value)
    if value == 1:
        raise UserError(f"{name} must be 0 or at least 2, got 1")


def number(name: str, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise UserError(f"{name} must be a number, got {value}")


def share(name: str, value: Any) -> None:
    number(name, value)
    if not 0 <= value <= 1:
        raise UserError(f"{name} must be a share from 0 to 1, got {value}")


def fraction(name: str, value: Any) -> None:
    number(name, value)
    if not 0 < value < 1:
        raise UserError(f"{name} must lie between 0 and 1, got {value}")


def not_negative(name: str, value: Any) -> None:
    number(name, value)
    if value < 0:
        raise UserError(f"{name} must be 0 or more, got {value}")


def positive(name: str, value: Any) -> None:
    number(name, value)
    if value <= 0:
        raise UserError(f"{name} must be more than 0, got {value}")


def one_of(*choices: object) -> Rule:
    def check(name: str, value: Any) -> None:
        if not any(value is choice or (value == choice and not isinstance(value, bool)) for choice in choices):
            expected = " or ".join("null" if choice is None else str(choice) for choice in choices)
            raise UserError(f"{name} must be {expected}, got {value}")

    return check


def numbers(rule: Rule, *, fewest: int) -> Rule:
    """Return a rule for lists of at least `fewest` items that all follow `rule`."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, list | tuple) or len(value) < fewest:
            raise UserError(f"{name} must be a list such as [32,64], got {value}")
        for item in value:
            rule(name, item)

    return check


def colour(name: str, value: Any) -> None:
    try:
        ImageColor.getrgb(value)
    except (ValueError, AttributeError, TypeError):
        raise UserError(f"{name} must be a colour's name or #rrggbb, got {value}") from None


POSITIVE_WHOLE = whole(1)
