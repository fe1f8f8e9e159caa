"""Metadata of painted pictures: that a model made them, the muse, and the settings that repaint them.

There are two fields. The XMP packet holds the IPTC Digital Source Type (always), and the muse with its rights. The
settings are JSON, in the text `artdiff` of a PNG, or in the XMP property `artdiff:settings` of a JPEG or WebP. They can
be left out.
"""

import html
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, PngImagePlugin

from artdiff import UserError
from artdiff.files import write
from artdiff.signing import Signer

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""File formats that can hold this metadata, by suffix."""

QUALITY = 95
"""Quality of JPEG and WebP, which are lossy."""

GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""The IPTC term for media made by a trained model."""

COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""The IPTC term for media that also contain something else: here, a muse."""

TEXT = "artdiff"
"""Keyword of the PNG text that holds the settings."""

MOST = 1_000_000
"""Longest settings that are read, in characters."""


class Origin(NamedTuple):
    """The metadata of a picture: `settings` repaint it; `source` names its muse with its rights, or is None."""

    settings: Mapping[str, object] = {}
    source: str | None = None


def save(
    picture: Image.Image, path: Path, origin: Origin, *, keep_settings: bool = True, signer: Signer | None = None
) -> None:
    """Write a picture with its metadata, in the format of its suffix (`FORMATS`; PNG without a suffix).

    Raises `UserError` for another suffix, and if it cannot be signed or written. Then an existing file stays as it is.
    """
    kind = FORMATS.get(path.suffix.lower()) if path.suffix else "PNG"
    if kind is None:
        raise UserError(f"{path.name} must end in {', '.join(FORMATS)}")
    settings = json.dumps(origin.settings) if keep_settings else None
    content, how = io.BytesIO(), dict[str, Any]()
    if kind == "PNG":
        how["pnginfo"] = info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", _xmp(origin.source, None))
        if settings is not None:
            info.add_itxt(TEXT, settings)
    else:
        how = {"xmp": _xmp(origin.source, settings).encode(), "quality": QUALITY}
    picture.save(content, format=kind, **how)
    file = content.getvalue()
    if signer is not None:  # last: the signature covers everything else
        file = signer.signed(file, kind=kind, source_type=_source_type(origin.source), source=origin.source)
    write(path, file)


def settings_of(path: Path) -> dict[str, Any]:
    """Read the settings from the metadata of a painted picture. Raises `UserError` if it has none."""
    try:
        with Image.open(path, formats=[*set(FORMATS.values())]) as picture:
            told = picture.info.get(TEXT) or _in_xmp(picture.info.get("xmp", b""))
            found = json.loads(told[:MOST]) if told else None
    except OSError as error:
        reason = error.strerror or "it is no PNG, JPEG or WebP"
        raise UserError(f"{path} cannot be read: {reason}") from None
    except Exception as error:  # a damaged file can make the readers raise anything
        raise UserError(f"{path} is damaged: {type(error).__name__} {error}"[:300]) from None
    if not isinstance(found, dict):
        raise UserError(f"{path} does not say how it was painted: it is not artdiff's, or was saved by another program")
    return found


def _in_xmp(packet: bytes) -> str | None:
    found = re.search(r"<artdiff:settings>(.*?)</artdiff:settings>", packet.decode(errors="replace"), re.DOTALL)
    return html.unescape(found[1]) if found else None


def _source_type(source: str | None) -> str:
    return GENERATED if source is None else COMPOSITE


def _xmp(source: str | None, settings: str | None) -> str:
    inside = f"<dc:source>{_escaped(source)}</dc:source>" if source is not None else ""
    inside += f"<artdiff:settings>{_escaped(settings)}</artdiff:settings>" if settings is not None else ""
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:artdiff="urn:artdiff:"
 Iptc4xmpExt:DigitalSourceType="{_source_type(source)}">{inside}</rdf:Description>
</rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def _escaped(text: str) -> str:
    """Escape `text` for XML, without control characters, which XML cannot represent."""
    return html.escape(re.sub("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "", text))
