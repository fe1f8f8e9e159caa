"""Models on the Hugging Face Hub: download with `ckpt=hf://USER/NAME`, upload with `artdiff.export push=USER/NAME`.

Needs the extra `hub`. `HF_ENDPOINT`, `HF_TOKEN` and the other variables of huggingface_hub apply.
"""

import logging
import re
from pathlib import Path
from typing import Any

from artdiff import UserError

SCHEME = "hf://"
NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""A model's name, USER/NAME."""


def fetch(address: str, files: list[str]) -> Path:
    """Download these files of the model `hf://USER/NAME` and return their folder. The hub's library caches them. Raises
    `UserError`.
    """
    name = named(address.removeprefix(SCHEME), address)
    hub = _library()
    try:
        return Path(hub.snapshot_download(name, allow_patterns=files))
    except Exception as error:  # no network, no such model, no right to see it
        raise UserError(f"{address} cannot be fetched: {_reason(error)}") from None


def push(folder: Path, name: str, *, public: bool) -> str:
    """Upload a folder to the model USER/NAME, which is created if it does not exist, and return its address.

    Raises `UserError`, also if the model exists and its visibility is not `public`: then nothing is uploaded.
    """
    hub = _library()
    try:
        api = hub.HfApi()
        api.create_repo(name, private=not public, exist_ok=True)  # does not change one that exists
        if bool(api.repo_info(name).private) == public:
            there, wanted = ("private", "public") if public else ("public", "private")
            raise UserError(
                f"push={name} is {there} on the hub, expected {wanted}: set public={str(not public).lower()}, or make "
                f"it {wanted} there; nothing was uploaded, and the folder {folder} is complete"
            )
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Written by artdiff.export")
        return f"{api.endpoint}/{name}"
    except UserError:
        raise
    except Exception as error:  # no network, no token, no right to write
        raise UserError(f"push={name} failed: {_reason(error)}; the folder {folder} is complete") from None


def named(name: str, given: str) -> str:
    """Return `name` if it is USER/NAME. Raises `UserError`, which quotes the setting as `given`."""
    if not NAME.fullmatch(name):
        raise UserError(f"{given} names no model; expected USER/NAME")
    return name


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("models on a hub need huggingface_hub: pip install 'artdiff[hub]'") from None
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)  # it logs every request
    return huggingface_hub


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:200]
