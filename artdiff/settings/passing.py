"""Settings of the checks on a painted picture (copies of training pictures, a classifier), and of its signature."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from artdiff import UserError
from artdiff.rules import Rule, fraction, number, numbers, positive, whole
from artdiff.settings.base import Settings, check_file

CHANNELS = 3
"""Red, green and blue."""


def three(rule: Rule) -> Rule:
    """A rule for three numbers, one for each channel, each of which must follow `rule`."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, list | tuple) or len(value) != CHANNELS:
            raise UserError(f"{name} must be three numbers, such as [0.5,0.5,0.5], got {value}")
        numbers(rule, fewest=CHANNELS)(name, value)

    return check


@dataclass(frozen=True, kw_only=True)
class RefuseSettings(Settings):
    """A classifier of the user, which may refuse pictures."""

    prefix: ClassVar[str] = "refuse."

    model: str | None
    outputs: Annotated[list[int], numbers(whole(0), fewest=1)] | None
    above: Annotated[float, fraction]
    logits: bool
    side: Annotated[int, whole(8)]
    mean: Annotated[list[float], three(number)]
    std: Annotated[list[float], three(positive)]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_file("refuse.model", self.model)


@dataclass(frozen=True, kw_only=True)
class SignSettings(Settings):
    """The certificate that pictures are signed with."""

    prefix: ClassVar[str] = "sign."

    certificate: str | None
    key: str | None
    algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"]
    timestamp: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.certificate is None) != (self.key is None):
            raise UserError("sign.certificate and sign.key go together: give both files")
        check_file("sign.certificate", self.certificate)
        check_file("sign.key", self.key)


@dataclass(frozen=True, kw_only=True)
class PassingSettings(Settings):
    """The checks on a painted picture before it is shown, and its signature."""

    originality: bool
    hold_back: bool
    refuse: RefuseSettings
    sign: SignSettings
