"""HEIC and JPEG XL are read with the extra `photos`, and name it without."""

import io

import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401  # so that tests can write such files
import pytest
from conftest import composed, picture
from hydra.utils import instantiate
from PIL import Image
from test_decode import ftyp

from artdiff.ingest import main_picture, plugins
from artdiff.ingest.decode import Transform, Unreadable, to_rgb
from artdiff.ingest.decoded import Ledger
from artdiff.ingest.pool import Outcome
from artdiff.settings.data import Limits

pillow_heif.register_heif_opener()
FORMATS = {"HEIC": "HEIF", "JPEG XL": "JXL"}
LIMITS = Limits(seconds=1, gigabytes=1)


def encoded(shown, kind, **how):
    stream = io.BytesIO()
    shown.save(stream, FORMATS[kind], quality=95, **how)
    return stream.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("turn", [1, 3, 6])
def test_a_photo_comes_upright(kind, turn):
    shown, exif = picture(3, (120, 80)), Image.Exif()
    exif[0x0112] = turn
    expected = {1: shown, 3: shown.rotate(180), 6: shown.transpose(Image.Transpose.ROTATE_270)}[turn]
    found = to_rgb(encoded(shown, kind, exif=exif.tobytes()))
    assert found.size == expected.size
    assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).mean() < 6


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_transparent_shows_the_background(kind):
    shown = picture(3, (64, 64)).convert("RGBA")
    shown.putalpha(Image.new("L", (64, 64)))
    assert np.asarray(to_rgb(encoded(shown, kind), (9, 200, 30))).reshape(-1, 3).mean(0) == pytest.approx(
        (9, 200, 30), abs=3
    )


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("damage", ["cut off", "other bytes", "a header alone"])
def test_a_damaged_file_is_told(kind, damage):
    whole = encoded(picture(3, (120, 80)), kind)
    noise = bytes(byte ^ (255 if place > 60 and place % 7 == 0 else 0) for place, byte in enumerate(whole))
    content = {"cut off": whole[: len(whole) // 2], "other bytes": noise, "a header alone": whole[:40]}[damage]
    with pytest.raises(Unreadable, match=f"^damaged {kind}: copy or download it again$"):
        to_rgb(content)


def test_a_folder_of_phone_pictures_is_used(tmp_path):
    for number in range(4):
        kind = ("HEIC", "JPEG XL")[number % 2]
        (tmp_path / f"IMG_{number}.{kind[:4].lower()}").write_bytes(encoded(picture(number, (64, 64)), kind))
    (tmp_path / "broken.heic").write_bytes(ftyp(b"heic", b"mif1"))
    data = instantiate(composed("train", f"data.root={tmp_path}", "run_dir=unused", "data.image_size=16")["data"])
    data.setup()
    assert len(data.train_set) + len(data.val_set) == 4
    assert [reason for _, reason in data.index.rejected] == ["damaged HEIC: copy or download it again"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\xff\x0a\xfa\x1f\x01\x90", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + ftyp(b"jxl "), "JPEG XL"),
        (ftyp(b"heic", b"mif1"), "HEIC"),
        (ftyp(b"mif1", b"heic"), "HEIC"),
        (ftyp(b"msf1", b"hevc"), "HEIC"),
    ],
)
def test_without_the_extra_the_reason_names_it(monkeypatch, content, kind):
    known = tuple(name for name in main_picture.formats() if name not in FORMATS.values())
    monkeypatch.setattr(main_picture, "formats", lambda: known)
    monkeypatch.setattr(plugins, "add", lambda name: False)
    with pytest.raises(Unreadable) as caught:
        to_rgb(content)
    assert (
        str(caught.value) == f"{kind}, which must first be converted to JPEG or PNG (or pip install 'artdiff[photos]')"
    )


def test_files_that_were_set_aside_are_looked_at_again_once_the_extra_is_there(tmp_path, monkeypatch):
    transform = Transform(16, "crop", (255, 255, 255))
    ledger = Ledger(tmp_path / "ledger", transform, LIMITS)
    ledger.add("phone", Outcome(None, "HEIC, which must first be converted to JPEG or PNG"))
    ledger.add("page", Outcome(None, "not a picture (HTML)"))
    assert set(Ledger(tmp_path / "ledger", transform, LIMITS).outcomes) == {"page"}
    monkeypatch.setattr(plugins, "find_spec", lambda name: None)
    assert set(Ledger(tmp_path / "ledger", transform, LIMITS).outcomes) == {"phone", "page"}
