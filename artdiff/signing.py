"""Sign pictures with Content Credentials: a signed statement of how they were made (C2PA, https://c2pa.org).

The user's certificate signs, with the C2PA library. Whoever trusts that certificate can verify that the picture was not
changed since.
"""

import io
import json
from typing import Any

from PIL import Image

from artdiff import UserError, __version__
from artdiff.files import user_path
from artdiff.settings.passing import SignSettings

VALID = ("Valid", "Trusted")
"""The library's states for a valid signature. `Trusted` also means that it trusts the issuer of the certificate."""


class Signer:
    """Signs pictures. Raises `UserError` if the library is missing or the certificate cannot sign."""

    def __init__(self, settings: SignSettings) -> None:
        try:
            import c2pa
        except ImportError:
            raise UserError("signing needs c2pa-python: pip install 'artdiff[c2pa]'") from None
        assert settings.certificate is not None and settings.key is not None
        self.settings = settings
        self.certificate = user_path(settings.certificate).read_bytes()
        self.key = user_path(settings.key).read_bytes()
        self.c2pa: Any = c2pa
        tried = io.BytesIO()
        Image.new("RGB", (8, 8)).save(tried, format="PNG")
        self.signed(tried.getvalue(), kind="PNG", source_type="", source=None)  # fail before painting, not after

    def signed(self, content: bytes, *, kind: str, source_type: str, source: str | None) -> bytes:
        """Return a picture's file with a signed manifest. The signature is verified.

        Args:
            content: the bytes of the file.
            kind: Pillow's name of its format.
            source_type: the IPTC term for how it was made.
            source: the muse and its rights, if it has one.

        Raises `UserError` if it cannot be signed, or the signature is not valid.
        """
        made = {"action": "c2pa.created", "digitalSourceType": source_type}
        made |= {} if source is None else {"description": f"shows through: {source}"}
        manifest = {
            "claim_generator_info": [{"name": "artdiff", "version": __version__}],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [made]}}],
        }
        mime, signed, asked = f"image/{kind.lower()}", io.BytesIO(), self.settings
        try:
            info = self.c2pa.C2paSignerInfo(asked.algorithm, self.certificate, self.key, asked.timestamp)
            quick = {"builder": {"thumbnail": {"enabled": False}}}
            with (
                self.c2pa.Signer.from_info(info) as signer,
                self.c2pa.Context.from_dict(quick) as context,
                self.c2pa.Builder(json.dumps(manifest), context) as builder,
            ):
                builder.sign(signer, mime, io.BytesIO(content), signed)
            with self.c2pa.Reader(mime, io.BytesIO(signed.getvalue())) as reader:
                state = reader.get_validation_state()
        except (self.c2pa.C2paError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"sign.certificate={asked.certificate} cannot sign: {reason}") from None
        if state not in VALID:
            raise UserError(f"sign.certificate={asked.certificate} signs, but its signature is not valid: {state}")
        return signed.getvalue()
