"""Reads from a file's metadata who made the picture and who has rights in it: creator, rights, licence, origin.

Metadata is untrusted, so this runs in the child processes that decode. Imports only Pillow.
"""

import io
from collections.abc import Iterator
from xml.etree import ElementTree

from PIL import Image, IptcImagePlugin
from PIL.ExifTags import Base

LONGEST = 300
"""Maximum number of characters of each text."""

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
XMP = {
    "{http://purl.org/dc/elements/1.1/}creator": "creator",
    "{http://purl.org/dc/elements/1.1/}rights": "rights",
    "{http://creativecommons.org/ns#}license": "licence",
    "{http://ns.adobe.com/xap/1.0/rights/}UsageTerms": "licence",
    "{http://ns.adobe.com/xap/1.0/rights/}WebStatement": "licence",
    "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType": "made as",
}
EXIF = {Base.Artist: "creator", Base.Copyright: "rights"}
IPTC = {(2, 80): "creator", (2, 116): "rights"}
TEXTS = {"Author": "creator", "Copyright": "rights"}
"""Keywords of PNG (https://www.w3.org/TR/png-3/#11keywords)."""

C2PA = (b"jumbc2pa", b"jumdc2pa", b"c2pa.claim")
"""Byte sequences that mark signed content credentials in a file."""


def rights(content: bytes) -> dict[str, str]:
    """The texts about rights in the bytes of a picture: name, such as `creator`, → text; empty if there are none."""
    found = dict[str, str]()
    try:
        with Image.open(io.BytesIO(content)) as picture:
            for name, text in _told(picture):
                clean = " ".join(text.replace("\0", " ").split())[:LONGEST]
                if clean:
                    found.setdefault(name, clean)
    except Exception:  # on malformed metadata the readers can raise anything
        pass
    if any(mark in content for mark in C2PA):
        found["credentials"] = "signed content credentials (C2PA)"
    return found


def _told(picture: Image.Image) -> Iterator[tuple[str, str]]:
    """Names and texts, the most informative fields first."""
    packet = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp")
    if packet:
        yield from _in_xmp(packet)
    exif = Image.Exif() if picture.format == "PNG" else picture.getexif()  # for a PNG, getexif would decode the pixels
    if picture.format == "PNG":
        exif.load(picture.info.get("exif", b""))
    for tag, name in EXIF.items():
        yield name, _text(exif.get(tag, ""))
    iptc = IptcImagePlugin.getiptcinfo(picture) or {}  # type: ignore[arg-type]  # it is a file's
    for field, name in IPTC.items():
        value = iptc.get(field, b"")
        yield name, _text(value[0] if isinstance(value, list) else value)
    for keyword, name in TEXTS.items():
        yield name, str(picture.info.get(keyword, ""))


def _text(value: object) -> str:
    """Decode a text of Exif or IPTC. In most files it is UTF-8, but Pillow may have read it as Latin-1."""
    try:
        value = str(value).encode("latin-1") if not isinstance(value, bytes) else value
        return value.decode()
    except UnicodeEncodeError:
        return str(value)
    except UnicodeDecodeError:
        return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _in_xmp(packet: bytes | str) -> Iterator[tuple[str, str]]:
    text = packet.decode(errors="replace") if isinstance(packet, bytes) else packet
    root = ElementTree.fromstring(text.strip("\0 \ufeff\r\n"))
    for node in root.iter():
        for key, value in node.attrib.items():
            if key in XMP:
                yield XMP[key], value
        if node.tag in XMP:
            parts = [item.text or "" for item in node.iter(f"{_RDF}li")]
            yield XMP[node.tag], ", ".join(parts) or node.get(f"{_RDF}resource") or node.text or ""
