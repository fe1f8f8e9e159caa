"""What a written picture says of itself: that a model made it, what shows through in it, and how to paint it again.

Two fields, apart. The XMP packet says what kind of picture it is (IPTC Digital Source Type, always) and names the muse
and its rights. The settings are JSON, in the text `artdiff` of a PNG and in the XMP property `artdiff:settings` of a
JPEG or WebP; they can be left out.
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
"""Kinds of files that say all this, by the ends of their names."""

QUALITY = 95
"""Of JPEG and WebP, which lose a little of a picture."""

GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""The IPTC term for media made by a trained model."""

COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""The IPTC term for media in which something else shows through."""

TEXT = "artdiff"
"""The text of a PNG that holds the settings."""

MOST = 1_000_000
"""Letters of settings that are read, at most."""


class Origin(NamedTuple):
    """`settings` paint the picture again. `source` names what shows through in it, such as a muse, with its rights."""

    settings: Mapping[str, object] = {}
    source: str | None = None


def save(
    picture: Image.Image, path: Path, origin: Origin, *, keep_settings: bool = True, signer: Signer | None = None
) -> None:
    """Write a picture in the format of its name's end (`FORMATS`; a PNG without one), with its origin.

    Raises `UserError` for another end, and if it cannot be signed or written; a file that was there stays.
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
    if signer is not None:  # last: it speaks of everything before
        file = signer.signed(file, kind=kind, source_type=_source_type(origin.source), source=origin.source)
    write(path, file)


def settings_of(path: Path) -> dict[str, Any]:
    """The settings that a picture of ours was painted with. Raises `UserError` if it holds none."""
    try:
        with Image.open(path, formats=[*set(FORMATS.values())]) as picture:
            told = picture.info.get(TEXT) or _in_xmp(picture.info.get("xmp", b""))
            found = json.loads(told[:MOST]) if told else None
    except OSError as error:
        reason = error.strerror or "it is no PNG, JPEG or WebP"
        raise UserError(f"{path} cannot be read: {reason}") from None
    except Exception as error:  # a strange file can make the readers raise anything
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
    """`text` as XML holds it: without control characters, which XML knows no way to write."""
    return html.escape(re.sub("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "", text))
