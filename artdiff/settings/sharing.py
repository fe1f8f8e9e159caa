"""Settings of the gallery and the export."""

from dataclasses import dataclass
from typing import Annotated

from artdiff import UserError, hub
from artdiff.rules import POSITIVE_WHOLE, positive, whole
from artdiff.settings.base import Accelerator, Settings, check_file, refuse_file
from artdiff.settings.data import Limits
from artdiff.settings.passing import PassingSettings

LOOPBACK = ("127.0.0.1", "localhost")
"""Host names that only this machine can reach."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """`conf/export.yaml`: which model to export, where to, and what its model card says."""

    ckpt: str
    to: str
    license: str
    name: str | None
    intended_use: str | None
    push: str | None
    public: bool
    onnx: bool
    samples: Annotated[int, whole(0)]
    seed: Annotated[int, whole(0, 2**63 - 1)]
    device: Accelerator
    runs_dir: str
    trust_code: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_file("to", self.to)
        if not self.license.strip():
            raise UserError("license is empty: name one, such as cc-by-4.0 or unknown")
        if self.push is not None:
            hub.named(self.push, f"push={self.push}")


@dataclass(frozen=True, kw_only=True)
class GallerySettings(PassingSettings):
    """`conf/gallery.yaml`: which runs the page offers, where it saves pictures, and who may open it."""

    ckpt: str | None
    runs_dir: str
    out: str
    host: str
    port: Annotated[int, whole(0, 65535)]
    user: str
    password: str | None
    upload_megabytes: Annotated[float, positive]
    max_pixels: Annotated[int, POSITIVE_WHOLE]
    word_vectors: str | None
    device: Accelerator
    trust_code: bool
    open: bool
    limits: Limits

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_file("out", self.out)
        check_file("word_vectors", self.word_vectors)
        if self.host not in LOOPBACK and not self.password:
            raise UserError(f"host={self.host} lets others open the page: give a password=… as well")
