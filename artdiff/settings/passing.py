"""What a painted picture must pass before it is shown, a look for copies and a classifier, and its signature."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from artdiff import UserError
from artdiff.rules import fraction, number, numbers, positive, whole
from artdiff.settings.base import Settings, check_file

CHANNELS = 3
"""Red, green and blue."""


@dataclass(frozen=True, kw_only=True)
class RefuseSettings(Settings):
    """A classifier of the user's that pictures must pass."""

    prefix: ClassVar[str] = "refuse."

    model: str | None
    outputs: Annotated[list[int], numbers(whole(0), fewest=1)] | None
    above: Annotated[float, fraction]
    logits: bool
    side: Annotated[int, whole(8)]
    mean: Annotated[list[float], numbers(number, fewest=3)]
    std: Annotated[list[float], numbers(positive, fewest=3)]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_file("refuse.model", self.model)
        for name in ("mean", "std"):
            if len(getattr(self, name)) != CHANNELS:
                raise UserError(f"refuse.{name} must be three numbers, got {getattr(self, name)}")


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
    """What a painted picture must pass before it is shown, and whether it is signed."""

    originality: bool
    hold_back: bool
    refuse: RefuseSettings
    sign: SignSettings
