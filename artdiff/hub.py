"""Models on the Hugging Face Hub: fetched with `ckpt=hf://USER/NAME`, given away with `artdiff.export push=USER/NAME`.

Needs the extra `hub`. `HF_ENDPOINT`, `HF_TOKEN` and the other variables of huggingface_hub apply.
"""

import logging
import re
from pathlib import Path
from typing import Any

from artdiff import UserError

SCHEME = "hf://"
NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""Of a model: USER/NAME."""


def fetch(address: str, files: list[str]) -> Path:
    """The folder with these files of the model at `hf://USER/NAME`, fetched once. Raises `UserError`."""
    name = named(address.removeprefix(SCHEME), address)
    hub = _library()
    try:
        return Path(hub.snapshot_download(name, allow_patterns=files))
    except Exception as error:  # no network, no such model, no right to see it
        raise UserError(f"{address} cannot be fetched: {_reason(error)}") from None


def push(folder: Path, name: str, *, public: bool) -> str:
    """Write a folder to the model USER/NAME, which is made if it is not there → its address.

    Raises `UserError`, also if the model is there and is not as `public` says: nothing is uploaded then.
    """
    hub = _library()
    try:
        api = hub.HfApi()
        api.create_repo(name, private=not public, exist_ok=True)  # one that is there stays as it is
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
    """`name` if it is USER/NAME. Raises `UserError`, which quotes what was given."""
    if not NAME.fullmatch(name):
        raise UserError(f"{given} names no model; expected USER/NAME")
    return name


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("models on a hub need huggingface_hub: pip install 'artdiff[hub]'") from None
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)  # it has a line for each request
    return huggingface_hub


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:200]
