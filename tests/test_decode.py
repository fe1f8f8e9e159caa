"""Every kind of picture gives the right pixels, and everything else a reason in words."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from artdiff.ingest.decode import Transform, Unreadable, decode, fitted, flat, to_rgb
from artdiff.ingest.main_picture import MAX_PIXELS

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
SQUASH = Transform(16, "squash", WHITE)


def encoded(picture, format="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def noise(width, height, seed=0, cells=8):
    """Soft spots of colour, some `cells` pixels apart."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height // cells + 1, width // cells + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def grey(value, bits):
    """A PNG of one 16-bit grey value, or a TIFF of one 32-bit value."""
    if bits == 16:
        return encoded(Image.fromarray(np.full((4, 4), value, np.uint16)))
    return encoded(Image.fromarray(np.full((4, 4), value, np.int32)), "TIFF")


def tiff(value, bits, white_is_zero=False):
    """A TIFF of one line of 8 packed grey values."""
    data = sum(value << (bits * place) for place in range(8)).to_bytes(bits, "big")
    tags = [(256, 8), (257, 1), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 8), (277, 1), (278, 1)]
    tags += [(279, len(data))]
    at = 8 + len(data) + len(data) % 2
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, number, 0) for tag, number in tags)
    header = struct.pack("<2sHI", b"II", 42, at) + data.ljust(at - 8, b"\0")
    return header + struct.pack("<H", len(tags)) + entries + bytes(4)


def palette(transparent):
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([*BLACK, *GREEN])
    return encoded(picture, transparency=1 if transparent else 0)


MODES = {
    "RGB": (encoded(Image.new("RGB", (4, 4), RED)), RED),
    "L": (encoded(Image.new("L", (4, 4), 77)), (77, 77, 77)),
    "1-bit": (encoded(Image.new("1", (4, 4), 1)), WHITE),
    "P": (encoded(Image.new("P", (4, 4), "red")), RED),
    "P opaque": (palette(transparent=False), GREEN),
    "P clear": (palette(transparent=True), BLUE),
    "CMYK": (encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"), RED),
    "YCbCr": (encoded(Image.new("YCbCr", (4, 4), (255, 128, 128)), "TIFF", compression="jpeg"), WHITE),
    "LAB": (encoded(Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF"), WHITE),
    "RGBA clear": (encoded(Image.new("RGBA", (4, 4), (*RED, 0))), BLUE),
    "RGBA one fifth": (encoded(Image.new("RGBA", (4, 4), (*RED, 51))), (51, 0, 204)),
    "LA one fifth": (encoded(Image.new("LA", (4, 4), (0, 51))), (0, 0, 204)),
    "RGB key": (encoded(Image.new("RGB", (4, 4), RED), transparency=RED), BLUE),
    "L key": (encoded(Image.new("L", (4, 4), 9), transparency=9), BLUE),
    "16-bit black": (grey(0, 16), BLACK),
    "16-bit dark": (grey(300, 16), (1, 1, 1)),
    "16-bit third": (grey(65535 // 3, 16), (85, 85, 85)),
    "16-bit white": (grey(65535, 16), WHITE),
    "32-bit small": (grey(85, 32), (85, 85, 85)),
    "32-bit third": (grey(65535 // 3, 32), (85, 85, 85)),
    "12-bit": (tiff(4095, 12), WHITE),
    "16-bit WhiteIsZero": (tiff(0, 16, white_is_zero=True), WHITE),
    "16-bit PGM": (b"P5 4 4 65535\n" + struct.pack(">16H", *[200] * 16), (1, 1, 1)),
    "CMYK JPEG": (encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100), RED),
    "float": (encoded(Image.fromarray(np.full((4, 4), 1 / 3, np.float32)), "TIFF"), (85, 85, 85)),
    "animation": (
        encoded(Image.new("RGB", (4, 4), RED), "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4))]),
        RED,
    ),
}


@pytest.mark.parametrize(("content", "colour"), MODES.values(), ids=MODES)
def test_every_mode_has_the_right_colour(content, colour):
    pixels, _ = decode(content, Transform(16, "squash", BLUE))
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels[8, 8].astype(int) - colour).max() <= 1


@pytest.mark.parametrize(
    ("picture", "colour"),
    [
        (Image.new("RGBA", (4, 4), (100, 0, 0, 51)).convert("RGBa"), (20 + 80, 80, 80)),
        (Image.new("LA", (4, 4), (100, 51)).convert("La"), (100, 100, 100)),
        (Image.new("PA", (4, 4), (0, 0)), (100, 100, 100)),
        (Image.new("HSV", (4, 4), (0, 255, 255)), RED),
    ],
    ids=["RGBa", "La", "PA", "HSV"],
)
def test_modes_that_only_decoders_produce(picture, colour):
    pixel = flat(picture, (100, 100, 100)).convert("RGB").getpixel((1, 1))
    assert np.abs(np.subtract(pixel, colour)).max() <= 1


def test_the_background_shows_through_transparent_16_bit_grey():
    content = bytearray(grey(4096, 16))
    chunk = b"tRNS" + struct.pack(">H", 4096)
    at = content.index(b"IDAT") - 4
    content[at:at] = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert decode(bytes(content), Transform(16, "squash", BLUE))[0][8, 8].tolist() == list(BLUE)


def test_transparent_pixels_do_not_colour_their_neighbours():
    pixels = np.zeros((400, 400, 4), np.uint8)
    pixels[:, ::2] = (255, 0, 0, 255)
    pixels[:, 1::2] = (0, 255, 0, 0)  # green, but invisible
    content = encoded(Image.fromarray(pixels))
    assert np.abs(decode(content, Transform(16, "squash", WHITE))[0].astype(int) - (255, 128, 128)).max() <= 2


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_exif_turn_is_applied(turn):
    upright = noise(48, 32)
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the operation of Pillow's that undoes each
    stored = upright if turn == 1 else upright.transpose(Image.Transpose(back[turn]))
    exif = Image.Exif()
    exif[0x0112] = turn
    for format, options in (("PNG", {}), ("JPEG", {"quality": 100, "subsampling": 0}), ("TIFF", {})):
        content = encoded(stored, format, exif=exif, **options)
        assert np.abs(np.asarray(to_rgb(content), int) - np.asarray(upright, int)).mean() < 2, format
        _, facts = decode(content, SQUASH)
        assert (facts.width, facts.height) == (48, 32)


def test_damaged_exif_does_no_harm():
    content = encoded(noise(32, 32), "JPEG", exif=b"Exif\0\0MM\x13*\0\0\0\x08nonsense")
    assert to_rgb(content).size == (32, 32)


def _profile(name):
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def _swapped():
    """An sRGB profile with red and green primaries exchanged: pixels that say red are green."""
    profile = bytearray(_profile("sRGB"))
    red, green = (profile.index(tag, 128) for tag in (b"rXYZ", b"gXYZ"))
    profile[red + 4 : red + 12], profile[green + 4 : green + 12] = (
        profile[green + 4 : green + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile).replace(b"sRGB", b"swap").replace(b"s\0R\0G\0B", b"s\0w\0a\0p")


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("JPEG", {"quality": 100, "subsampling": 0})])
def test_an_embedded_profile_is_converted_to_srgb(format, options):
    content = encoded(Image.new("RGB", (64, 64), RED), format, icc_profile=_swapped(), **options)
    assert np.abs(decode(content, SQUASH)[0].astype(int) - GREEN).max() <= 3
    clear = Image.new("RGBA", (64, 64), (*RED, 51))
    assert np.abs(np.asarray(flat_of(clear, _swapped()), int) - (204, 255, 204)).max() <= 3


def flat_of(picture, profile):
    return to_rgb(encoded(picture, icc_profile=profile))


def _inks():
    """A CMYK profile by which every ink is green: a lookup table (ICC.1:2022, lut8Type) from ink to Lab."""
    curves = bytes(range(256))
    white, green = bytes((255, 128, 128)), bytes((224, 42, 211))  # L of 255, a and b around 128
    colours = b"".join(green if place else white for place in range(16))
    identity = struct.pack(">9i", *(65536 if place % 4 == 0 else 0 for place in range(9)))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + curves * 4 + colours + curves * 3
    head = struct.pack(">I4sI4s4s4s", 0, b"none", 0x02400000, b"prtr", b"CMYK", b"Lab ") + bytes(12) + b"acsp"
    head = head.ljust(68, b"\0") + struct.pack(">3I", 63190, 65536, 54061)
    body = struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table
    profile = head.ljust(128, b"\0") + body
    return struct.pack(">I", len(profile)) + profile[4:]


def test_cmyk_is_converted_by_its_profile():
    for format, options in (("TIFF", {}), ("JPEG", {"quality": 100})):
        content = encoded(Image.new("CMYK", (64, 64), (255, 0, 0, 0)), format, icc_profile=_inks(), **options)
        assert np.abs(decode(content, SQUASH)[0].astype(int) - GREEN).max() <= 12, format


@pytest.mark.parametrize("profile", [b"damaged", _profile("LAB"), _profile("sRGB")])
def test_a_useless_profile_changes_nothing(profile):
    assert flat_of(Image.new("RGB", (4, 4), RED), profile).getpixel((1, 1)) == RED


def test_fits():
    """A wide picture, red left, green in the middle half, blue right."""
    picture = Image.new("RGB", (64, 32), GREEN)
    picture.paste(RED, (0, 0, 16, 32))
    picture.paste(BLUE, (48, 0, 64, 32))
    squashed, cropped, padded = (
        np.asarray(fitted(picture, Transform(16, fit, BLACK)), int) for fit in ("squash", "crop", "pad")
    )
    for row in (0, 8, 15):
        assert [squashed[row, column].argmax() for column in (1, 8, 14)] == [0, 1, 2]
    assert np.abs(cropped - GREEN).mean() < 8
    assert padded[2].max() == padded[13].max() == 0
    assert [padded[8, column].argmax() for column in (1, 8, 14)] == [0, 1, 2]


def test_a_large_jpeg_decoded_small_stays_near_the_full_picture():
    content = encoded(noise(1200, 900, cells=40), "JPEG", quality=90)
    expected = np.asarray(to_rgb(content).resize((64, 64), Image.Resampling.LANCZOS), int)
    pixels, facts = decode(content, Transform(64, "squash", WHITE))
    assert np.abs(pixels - expected).mean() < 2
    assert (facts.width, facts.height) == (1200, 900)


def test_facts_do_not_depend_on_the_size_trained_at():
    for content in (encoded(noise(1500, 1100, cells=60), "JPEG"), encoded(noise(700, 900, cells=60))):
        facts = {
            decode(content, Transform(size, fit, WHITE))[1] for size in (16, 128, 256) for fit in ("squash", "pad")
        }
        assert len(facts) == 1


def test_grey_is_told_from_colour():
    assert decode(encoded(noise(64, 64).convert("L").convert("RGB"), "JPEG"), SQUASH)[1].grey
    assert not decode(encoded(noise(64, 64), "JPEG"), SQUASH)[1].grey


def test_the_extension_does_not_matter():
    assert decode(encoded(Image.new("RGB", (4, 4), RED), "WEBP", lossless=True), SQUASH)[0][8, 8].tolist() == list(RED)


def _bomb():
    """A PNG that says it is 90,000 x 90,000."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 90_000, 90_000, 8, 2, 0, 0, 0)
    chunks = (header, b"IDAT" + zlib.compress(bytes(100)), b"IEND")
    packed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"


def ftyp(*brands):
    """The head of an ISO media file."""
    first, *rest = brands
    box = first + bytes(4) + b"".join(rest)
    return struct.pack(">I", len(box) + 8) + b"ftyp" + box + struct.pack(">I4s", 99, b"meta") + bytes(range(91))


JPEG = encoded(noise(64, 64), "JPEG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file: copy or download it again"),
        (b"<!DOCTYPE html><html></html>", "not a picture (HTML)"),
        (b"<?xml version='1.0'?><svg></svg>", "not a picture (SVG)"),
        (b"%PDF-1.7", "not a picture (PDF)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture (PostScript)"),
        (b"PK\3\4zip", "not a picture (archive)"),
        (b"PK\3\4" + b"\1\0\x63\0" * 9, "not a picture (archive)"),  # encrypted
        (b"Salted__" + bytes(range(99)), "not a picture (encrypted)"),
        (ftyp(b"crx ", b"isom"), "raw file (CR3), which must first be exported as JPEG, PNG or TIFF"),
        (b"FUJIFILMCCD-RAW 0201", "raw file (RAF), which must first be exported as JPEG, PNG or TIFF"),
        (b"IIU\0\x18\0\0\0", "raw file (RW2), which must first be exported as JPEG, PNG or TIFF"),
        (b"IIRO\x08\0\0\0", "raw file (ORF), which must first be exported as JPEG, PNG or TIFF"),
        (ftyp(b"avif", b"mif1"), "AVIF that cannot be decoded here, which must first be converted to JPEG or PNG"),
        (ftyp(b"mif1", b"avif"), "AVIF that cannot be decoded here, which must first be converted to JPEG or PNG"),
        (ftyp(b"isom", b"mp42"), "not a picture (video)"),
        (b"v/1\x01\2\0\0\0", "OpenEXR, which must first be converted to JPEG or PNG"),
        (b"#?RADIANCE\n", "Radiance HDR, which must first be converted to JPEG or PNG"),
        (
            b"8BPS\0\2" + bytes(6) + b"\0\3" + b"\0\0\0\x28" * 2 + b"\0\x08\0\3",
            "PSB (large Photoshop document), which must first be exported as JPEG, PNG or TIFF",
        ),
        (LFS, "a Git LFS pointer (run git lfs pull)"),
        (LFS.replace(b"\n", b"\r\n"), "a Git LFS pointer (run git lfs pull)"),
        (b"/annex/objects/SHA256E-s9--ab.jpg\n", "a git-annex pointer (run git annex get)"),
        (b"outs:\n- md5: a304afb9\n", "a DVC pointer (run dvc pull)"),
        (b"[InternetShortcut]\r\nURL=https://example.org\r\n", "not a picture (link to a web page)"),
        (b"<?xml?><plist><dict><key>URL</key></dict></plist>", "not a picture (link to a web page)"),
        (b"L\0\0\0\1\x14\2\0" + bytes(range(60)), "not a picture (Windows shortcut)"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X        ", "not a picture (what macOS notes about a file)"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "not a picture (Office document or thumbnail database)"),
        ("Ölgemälde, 1908\n".encode() * 99, "not a picture (text)"),
        ("a list".encode("utf-16"), "not a picture (text)"),
        (b"RI", "not a picture (text)"),
        (b"\xff\xd8\xff", "damaged JPEG: no header"),
        (b"dear diary", "not a picture (text)"),
        (bytes(2000), "not a picture (nothing but zeros): copy or download it again"),
        (bytes(range(1, 255)), "not a picture"),
        (JPEG[: len(JPEG) // 2], "truncated JPEG: copy or download it again"),
        (JPEG[:20], "damaged JPEG: no header"),
        (_bomb(), "too large: 90,000 x 90,000"),
        (encoded(noise(64, 64))[:-40], "truncated PNG: copy or download it again"),
    ],
)
def test_a_file_that_is_not_a_picture_says_why(content, reason):
    with pytest.raises(Unreadable) as caught:
        decode(content, SQUASH)
    assert str(caught.value) == reason


def test_a_jpeg_counts_at_its_reduced_size(monkeypatch):
    content = encoded(Image.new("L", (4000, 4000)), "JPEG")
    monkeypatch.setattr("artdiff.ingest.main_picture.MAX_PIXELS", MAX_PIXELS // 100)
    assert decode(content, SQUASH)[1].width == 4000
    with pytest.raises(Unreadable, match="too large: 4,000 x 4,000"):
        to_rgb(content)
