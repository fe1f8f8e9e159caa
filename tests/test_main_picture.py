"""Of a file with several pictures the main one is read, or none: never a thumbnail or a blank frame."""

import io
import struct
from contextlib import suppress

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from artdiff.ingest import main_picture, tiff
from artdiff.ingest.decode import Transform, Unreadable, decode, to_rgb

SQUASH = Transform(16, "squash", (255, 255, 255))
CFA, LINEAR_RAW = 32803, 34892
SHOWN = picture(5, (120, 80))
DNG = {50706: (1, (1, 4, 0, 0))}


def small(factor=4, shown=SHOWN):
    return shown.reduce(factor)


def file(*pages, order="<", big=False, sub=()):
    """A TIFF of pages (picture, tags), uncompressed; `sub` are sub-pages of the first. Tags: {tag: (type, values)}."""
    counted, entry, pointer = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    content = bytearray(struct.pack(order + ("2sHHHQ" if big else "2sHI"), *file_head(order, big)))
    places, links = [], []

    def add(shown, tags, subs):
        data = shown.tobytes()
        at = len(content)
        content.extend(data + bytes(len(data) % 2))
        count = len(shown.getbands())
        fields = {254: (4, (0,)), 256: (4, (shown.width,)), 257: (4, (shown.height,)), 258: (3, (8,) * count)}
        fields |= {259: (3, (1,)), 262: (3, (2 if count == 3 else 1,)), 273: (4, (at,)), 277: (3, (count,))}
        fields |= {278: (4, (shown.height,)), 279: (4, (len(data),)), **({330: (4, subs)} if subs else {}), **tags}
        packed = []
        for tag, (kind, values) in sorted(fields.items()):
            value = struct.pack(f"{order}{len(values)}{ {1: 'B', 2: 'B', 3: 'H', 4: 'I'}[kind] }", *values)
            if len(value) > (8 if big else 4):
                value, where = struct.pack(order + pointer, len(content)), value
                content.extend(where + bytes(len(where) % 2))
            packed.append(struct.pack(order + entry, tag, kind, len(values)) + value.ljust(8 if big else 4, b"\0"))
        place = len(content)
        content.extend(struct.pack(order + counted, len(packed)) + b"".join(packed))
        links.append(len(content))
        content.extend(bytes(struct.calcsize(order + pointer)))
        return place

    below = tuple(add(shown, tags, ()) for shown, tags in sub)
    links.clear()
    places = [add(shown, tags, below if number == 0 else ()) for number, (shown, tags) in enumerate(pages)]
    for at, place in zip([8 if big else 4, *links], places, strict=False):
        struct.pack_into(order + pointer, content, at, place)
    return bytes(content)


def file_head(order, big):
    name = b"II" if order == "<" else b"MM"
    return (name, 43, 8, 0, 0) if big else (name, 42, 0)


def tag(number, *values, kind=4):
    return {number: (kind, values)}


REDUCED, MASK = tag(254, 1), tag(254, 4)


def shows(content, shown):
    found = to_rgb(content)
    return (
        found.size == shown.size and np.abs(np.asarray(found, int) - np.asarray(shown.convert("RGB"), int)).max() <= 3
    )


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)], ids=["II", "MM", "BigTIFF"])
def test_a_reduced_first_page_is_not_the_picture(order, big):
    for tags in (REDUCED, REDUCED | DNG, tag(255, 2, kind=3)):
        assert shows(file((small(), tags), (SHOWN, {}), order=order, big=big), SHOWN)
        assert shows(file((small(), tags), sub=[(small(2), REDUCED), (SHOWN, {})], order=order, big=big), SHOWN)
    assert decode(file((small(), REDUCED), (SHOWN, {}), order=order, big=big), SQUASH)[1][:2] == (120, 80)


@pytest.mark.parametrize("first", [small(), small(2), small(8)])
def test_a_pyramid_whose_first_page_is_small_is_read_at_full_size(first):
    assert shows(file((first, {}), (small(2), {}), (SHOWN, {})), SHOWN)
    assert shows(file((first, {}), sub=[(SHOWN, {})]), SHOWN)


def test_a_thumbnail_may_be_cropped_a_little_and_all_pages_may_be_marked():
    shown = picture(5, (1200, 900))
    thumbnail = shown.resize((157, 120))
    for options in ({}, {"tiffinfo": {254: 1, 50706: b"\1\4\0\0"}}, {"compression": "tiff_lzw"}):
        stream = io.BytesIO()
        thumbnail.save(stream, "TIFF", save_all=True, append_images=[shown], **options)
        assert shows(stream.getvalue(), shown)


def test_pages_that_show_something_else_are_not_the_picture():
    other = picture(6, (240, 160))
    assert shows(file((SHOWN, {}), (other, {})), SHOWN)
    assert shows(file((SHOWN, {}), (small(), REDUCED), (Image.new("L", SHOWN.size), MASK)), SHOWN)
    assert shows(file((SHOWN, {}), sub=[(small(2), REDUCED)]), SHOWN)
    assert shows(file((SHOWN, {}), (picture(5, (240, 160)), tag(259, 50002, kind=3))), SHOWN)  # it cannot be decoded


def test_the_main_page_is_turned_as_the_first_one_is():
    turned = SHOWN.transpose(Image.Transpose.ROTATE_90)
    content = file((small(4, turned), REDUCED | tag(274, 6, kind=3)), (turned, {}))
    assert shows(content, SHOWN)
    assert decode(content, SQUASH)[1][:2] == SHOWN.size


MAKES = {
    "DNG": DNG,
    "NEF": tag(271, *b"NIKON CORPORATION\0", kind=2),
    "ARW": tag(271, *b"SONY\0", kind=2),
    "TIFF": {},
}


def sensor(size=(120, 80), kind=CFA):
    return Image.new("L", size), tag(262, kind)


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("kind", [CFA, LINEAR_RAW])
def test_a_raw_file_is_not_its_preview(name, kind):
    reason = rf"raw file \({name}\), which must first be exported as JPEG, PNG or TIFF: only its preview of 30 x 20 can"
    for content in (
        file((small(), REDUCED | MAKES[name]), sub=[sensor(kind=kind)]),
        file((small(), MAKES[name]), sensor(kind=kind)),
    ):
        with pytest.raises(Unreadable, match=reason):
            decode(content, SQUASH)


def test_raw_files_with_nothing_but_a_preview_or_the_whole_picture():
    with pytest.raises(Unreadable, match=r"raw file \(DNG\).* only its preview of 30 x 20"):
        decode(file((small(), REDUCED | DNG)), SQUASH)
    with pytest.raises(Unreadable, match=r"TIFF without its main picture: only its preview of 30 x 20"):
        decode(file((small(), REDUCED)), SQUASH)
    with pytest.raises(Unreadable, match=r"raw file \(DNG\)"):
        decode(file((sensor()[0], sensor()[1] | DNG), sub=[(small(), REDUCED)]), SQUASH)
    assert shows(file((small(), REDUCED | DNG), sub=[sensor((124, 84)), (SHOWN, REDUCED)]), SHOWN)


def cr2(preview, sensor_size):
    content = bytearray(file((preview, {}), (Image.new("L", (9, 9)), {})))
    moved = bytearray(b"II*\0" + struct.pack("<I", 0) + b"CR\2\0")
    height, width = sensor_size[1], sensor_size[0] // 2
    found = tiff.read(bytes(content))
    at = found.pages[1].first(273)
    content[at : at + 16] = b"\xff\xd8\xff\xc3\0\x0e\x0e" + struct.pack(">HHB", height, width, 2) + bytes(4)
    return bytes(moved[:4] + content[4:8] + b"CR\2\0" + content[12:])


def test_a_cr2_is_its_preview_only_if_that_is_as_large_as_the_sensor():
    assert to_rgb(cr2(SHOWN, (124, 82))).size == SHOWN.size
    with pytest.raises(Unreadable, match=r"raw file \(CR2\)"):
        to_rgb(cr2(small(), (124, 82)))


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        (tag(258, 32, 32, 32, kind=3) | tag(339, 3, 3, 3, kind=3), "3 x 32-bit floating-point values"),
        (tag(258, 16, 16, 16, kind=3) | tag(339, 3, 3, 3, kind=3), "3 x 16-bit floating-point values"),
        (tag(258, 24, 24, 24, kind=3), "3 x 24-bit values"),
        (tag(259, 50002, kind=3), "3 x 8-bit values a pixel, compressed as JPEG XL"),
        (tag(259, 34887, kind=3), "compressed as LERC"),
    ],
)
def test_a_valid_tiff_of_another_kind_is_not_called_damaged(tags, kind):
    with pytest.raises(Unreadable, match="^unsupported TIFF, which must first be converted to JPEG or PNG: ") as caught:
        decode(file((SHOWN, tags)), SQUASH)
    assert kind in str(caught.value)


def test_damaged_directories_cost_little():
    loop = bytearray(file((SHOWN, {}), (small(), {})))
    found = tiff.read(bytes(loop))
    struct.pack_into("<I", loop, len(loop) - 4, found.pages[0].place)
    assert shows(bytes(loop), SHOWN)
    many = file(*[(small(20), {})] * 200)
    assert len(tiff.read(many).pages) == tiff.MOST_PAGES
    rng = np.random.default_rng(0)
    whole = [
        file((small(), REDUCED | DNG), (SHOWN, {}), sub=[sensor()]),
        file((small(), REDUCED), (SHOWN, {}), big=True),
    ]
    for content in [*whole, cr2(SHOWN, (124, 82))] * 100:
        damaged, directories = bytearray(content), [page.place for page in tiff.read(content).pages]
        for at in rng.integers(150, size=4):
            damaged[min(len(damaged) - 1, int(rng.choice(directories) + at))] = rng.integers(256)
        with suppress(Unreadable):
            decode(bytes(damaged), SQUASH)


# animations


BLANKS = {
    "white": Image.new("RGB", (48, 40), "white"),
    "black": Image.new("RGB", (48, 40), "black"),
    "clear": Image.new("RGBA", (48, 40), (9, 9, 9, 0)),
}


def animation(format, *frames):
    stream = io.BytesIO()
    frames[0].save(stream, format, save_all=True, append_images=frames[1:], lossless=True, duration=100)
    return stream.getvalue()


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
@pytest.mark.parametrize("blank", BLANKS)
def test_a_blank_first_frame_is_not_the_picture(format, blank):
    shown, blank = picture(3).quantize(8).convert("RGB"), BLANKS[blank]
    shown = shown.convert(blank.mode)
    assert shows(animation(format, blank, shown, picture(4).convert(blank.mode)), shown)
    assert shows(animation(format, blank, Image.blend(shown, blank, 0.9), shown), shown)  # it fades in
    assert shows(animation(format, shown, blank), shown)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_an_animation_of_blank_frames_is_its_first_frame(format):
    red, white = Image.new("RGB", (48, 40), (255, 0, 0)), BLANKS["white"]
    assert shows(animation(format, red, white), red)
    assert shows(animation(format, red), red)


def test_a_long_blank_animation_costs_little(monkeypatch):
    frames = []
    monkeypatch.setattr(main_picture, "_look", lambda shown: frames.append(1) or np.zeros(1))
    pages = [(Image.new("L", (8, 8)), {})] * 100
    decode(file(*pages), SQUASH)
    assert len(frames) == main_picture.MOST_FRAMES
    monkeypatch.setattr(main_picture, "MAX_PIXELS", 640)
    decode(file(*pages), SQUASH)
    assert len(frames) == main_picture.MOST_FRAMES + 11


def test_a_blank_first_page_is_not_the_picture():
    assert shows(file((BLANKS["white"], {}), (picture(3), {})), picture(3))


# other files with several pictures


def mpo(*pictures, kinds=None):
    stream = io.BytesIO()
    pictures[0].save(stream, "MPO", save_all=True, append_images=pictures[1:], quality=95)
    content = bytearray(stream.getvalue())
    at = content.index(b"MPF\0") + 4
    for number, kind in enumerate(kinds or ()):
        entries = content.index(struct.pack("<HHI", 0xB002, 7, 16 * len(pictures)), at)
        (place,) = struct.unpack_from("<I", content, entries + 8)
        struct.pack_into("<I", content, at + place + 16 * number, kind)
    return bytes(content)


def test_the_main_one_of_several_jpegs():
    near = np.asarray(SHOWN, int)
    for content in (
        mpo(SHOWN, small(2)),
        mpo(SHOWN, picture(9, (240, 160))),
        mpo(small(2), SHOWN, kinds=[0x010001, 0x030000]),
    ):
        found, facts = to_rgb(content), decode(content, SQUASH)[1]
        assert found.size == SHOWN.size == facts[:2]
        assert np.abs(np.asarray(found, int) - near).mean() < 4


@pytest.mark.parametrize("format", ["ICO", "ICNS"])
def test_the_largest_icon(format):
    shown, stream = picture(3, (64, 64)).convert("RGBA"), io.BytesIO()
    sizes = {"sizes": [(16, 16), (32, 32), (64, 64)]} if format == "ICO" else {}
    shown.save(stream, format, **sizes)
    assert to_rgb(stream.getvalue()).width >= 64


def psd(merged):
    resource = b"8BIM" + struct.pack(">HHI", 1057, 0, 6) + struct.pack(">IB", 1, merged) + b"\0"
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 40, 48, 8, 3) + bytes(4)
    pixels = np.moveaxis(np.asarray(picture(3)), 2, 0).tobytes()
    return head + struct.pack(">I", len(resource)) + resource + bytes(4) + struct.pack(">H", 0) + pixels


def test_a_photoshop_file_without_the_picture_itself():
    assert shows(psd(merged=1), picture(3))
    with pytest.raises(Unreadable, match="without a merged picture, which must be saved with Maximize Compatibility"):
        to_rgb(psd(merged=0))
