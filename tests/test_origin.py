"""What a written picture says of itself, in files that other programs read as well."""

import io
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from conftest import composed, generate, picture, small, train
from PIL import Image, PngImagePlugin
from PIL.ExifTags import Base

import artdiff
from artdiff import UserError, origin
from artdiff.ingest import pool
from artdiff.ingest.rights import rights
from artdiff.origin import COMPOSITE, FORMATS, GENERATED, Origin
from artdiff.settings.data import Limits

EXIFTOOL = shutil.which("exiftool")
SETTINGS = {"label": '<b>&amp; "Ä" ]]> 江戸</b>', "seed": 3, "guidance_interval": [0.1, 1.0], "odd": "\ud800\x07"}
TITLE = "Muse <&> 江戸.jpg (creator: Ada; rights: © 1843)"


@pytest.mark.parametrize("end", FORMATS)
@pytest.mark.parametrize("source", [None, TITLE])
def test_every_format_says_what_it_is_and_how_it_is_painted_again(end, source, tmp_path):
    path = tmp_path / f"made{end}"
    origin.save(picture(1), path, Origin(SETTINGS, source))
    assert origin.settings_of(path) == SETTINGS
    with Image.open(path) as made:
        packet = made.info.get("xmp") or made.info["XML:com.adobe.xmp"].encode()
    term = COMPOSITE if source else GENERATED
    assert f'DigitalSourceType="{term}"'.encode() in packet
    assert rights(path.read_bytes())["made as"] == term


@pytest.mark.parametrize("end", FORMATS)
def test_settings_can_be_left_out_and_the_rest_stays(end, tmp_path):
    path = tmp_path / f"made{end}"
    origin.save(picture(1), path, Origin(SETTINGS), keep_settings=False)
    assert b"guidance" not in path.read_bytes()
    assert rights(path.read_bytes())["made as"] == GENERATED
    with pytest.raises(UserError, match="does not say how it was painted"):
        origin.settings_of(path)


@pytest.mark.skipif(EXIFTOOL is None and "CI" not in os.environ, reason="exiftool is not installed")
@pytest.mark.parametrize("end", FORMATS)
def test_exiftool_reads_it(end, tmp_path):
    path = tmp_path / f"made{end}"
    origin.save(picture(1), path, Origin({"seed": 3}, TITLE))
    asked = [EXIFTOOL, "-json", "-charset", "utf8", "-DigitalSourceType", "-XMP-dc:Source", "-warning", path]
    (told,) = json.loads(subprocess.run(asked, check=True, capture_output=True).stdout)
    assert told["DigitalSourceType"] in (COMPOSITE, "Composite with Trained Algorithmic Media")
    assert told["Source"] == TITLE
    assert "Warning" not in told


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.png"):
        origin.save(picture(1), tmp_path / "made.tiff", Origin())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read: it is no PNG, JPEG or WebP"),
        (b"GIF89a", "cannot be read: it is no PNG, JPEG or WebP"),
        (None, "cannot be read: No such file"),
    ],
)
def test_what_is_no_picture_is_one_line(content, message, tmp_path):
    path = tmp_path / "it.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        origin.settings_of(path)


@pytest.mark.parametrize("text", ["{", "[1]", "null", '{"a":' * 100_000])
def test_damaged_settings_are_one_line(text, tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_itxt(origin.TEXT, text)
    picture(1).save(tmp_path / "made.png", pnginfo=info)
    with pytest.raises(UserError, match="is damaged|does not say"):
        origin.settings_of(tmp_path / "made.png")


def _bytes(kind, **how):
    content = io.BytesIO()
    picture(2).save(content, format=kind, **how)
    return content.getvalue()


def _exif():
    exif = Image.Exif()
    exif[Base.Artist], exif[Base.Copyright] = "Ada Lovelace", "© 1843 Ada".encode()
    return exif


XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:cc="http://creativecommons.org/ns#"
 xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/" xmpRights:WebStatement="https://example.org/terms">
<dc:creator><rdf:Seq><rdf:li>Ada</rdf:li><rdf:li>Mary</rdf:li></rdf:Seq></dc:creator>
<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">All rights reserved</rdf:li></rdf:Alt></dc:rights>
</rdf:Description></rdf:RDF></x:xmpmeta>"""


def test_rights_are_read_from_wherever_they_stand():
    png = PngImagePlugin.PngInfo()
    png.add_text("Author", "Ada")
    png.add_text("Copyright", "1843")
    assert rights(_bytes("JPEG", exif=_exif())) == {"creator": "Ada Lovelace", "rights": "© 1843 Ada"}
    assert rights(_bytes("WEBP", exif=_exif()))["creator"] == "Ada Lovelace"
    assert rights(_bytes("PNG", pnginfo=png)) == {"creator": "Ada", "rights": "1843"}
    found = rights(_bytes("JPEG", xmp=XMP.encode(), exif=_exif()))
    assert found == {"creator": "Ada, Mary", "rights": "All rights reserved", "licence": "https://example.org/terms"}
    assert rights(_bytes("JPEG")) == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xd8\xff", _bytes("JPEG", xmp=b"<x><y>"), _bytes("JPEG", xmp=b"\xff\xfe" * 500), _bytes("PNG")[:60]],
)
def test_strange_metadata_says_nothing(content):
    assert rights(content) == {}


def test_signed_credentials_are_named():
    assert rights(_bytes("PNG") + b"....jumdc2pa....") == {"credentials": "signed content credentials (C2PA)"}


def test_a_long_text_is_cut():
    assert len(rights(_bytes("PNG", exif=_long()))["creator"]) == 300


def _long():
    exif = Image.Exif()
    exif[Base.Artist] = "a" * 5000
    return exif


def test_rights_come_with_a_picture_that_is_read(tmp_path):
    (tmp_path / "it.jpg").write_bytes(_bytes("JPEG", exif=_exif()))
    (found,) = pool.read([tmp_path / "it.jpg"], Limits(seconds=60, gigabytes=4))
    assert found.rights == {"creator": "Ada Lovelace", "rights": "© 1843 Ada"}


@pytest.fixture(scope="module")
def runs(art, tmp_path_factory):
    """A folder with a run that has learned next to nothing, but paints."""
    folder = tmp_path_factory.mktemp("runs")
    network = ("network=unet", "network.channels=[32,32]", "network.cond_dim=16", "scheduler=null")
    train(small(art, folder / "painter", "task=generation", *network, "data.image_size=16"))
    return folder


@pytest.fixture(autouse=True)
def every_line(caplog):
    caplog.set_level("INFO")


def paint(runs, out, *words):
    return generate(composed("generate", f"out={out}", f"runs_dir={runs}", "device=cpu", *words))


def is_same(one, other):
    return np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("label=truchet", "seed=5", "steps=3"),
        ("label=none", "solver=euler", "steps=4", "guidance=3.0", "guidance_interval=[0.2,0.7]", "spacing=karras"),
        ("label=[truchet,engraving]", "interpolate=[1,9]", "n=3", "steps=3"),
        ("label=truchet", "size=32x16", "steps=2"),
    ],
)
def test_a_picture_is_painted_again_bit_for_bit(runs, tmp_path, words, caplog):
    first = [path for path in paint(runs, tmp_path / "out", f"ckpt={runs / 'painter'}", *words) if path.stem != "sheet"]
    for path in first[1:2] or first[:1]:
        caplog.clear()
        (again,) = paint(runs, tmp_path / "again", f"from={path}")
        assert is_same(path, again)
        assert f"the same as {path}, bit for bit" in caplog.text
        assert origin.settings_of(path) == origin.settings_of(again)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("strength=0.5",), ("strength=0.7", "size=own", "label=truchet"), ("strength=1.0",)])
def test_a_picture_from_a_muse_needs_that_muse(runs, tmp_path, words):
    muse, other = tmp_path / "muse.jpg", tmp_path / "other.jpg"
    muse.write_bytes(_bytes("JPEG", exif=_exif()))
    picture(7).save(other)
    path, _ = paint(runs, tmp_path / "out", f"ckpt={runs / 'painter'}", f"muse={muse}", "steps=3", *words)
    (again,) = paint(runs, tmp_path / "again", f"from={path}", f"muse={muse}")
    assert is_same(path, again)
    told = origin.settings_of(path)
    shows = b"Ada Lovelace" in path.read_bytes()
    assert shows == ("strength=1.0" not in words)
    assert rights(path.read_bytes())["made as"] == (COMPOSITE if shows else GENERATED)
    assert told["muse"] == "muse.jpg"
    with pytest.raises(UserError, match=r"was painted from the picture muse\.jpg: set muse=FILE"):
        paint(runs, tmp_path / "again", f"from={path}")
    with pytest.raises(UserError, match="is not the picture that"):
        paint(runs, tmp_path / "again", f"from={path}", f"muse={other}")


def test_what_is_missing_is_said(runs, art, tmp_path):
    path, _ = paint(runs, tmp_path / "out", f"ckpt={runs / 'painter'}", "label=truchet", "n=1", "steps=2")
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(UserError, match=r"was painted with best\.ckpt \(SHA-256 .*set ckpt=FILE"):
        paint(elsewhere, tmp_path / "again", f"from={path}")
    (again,) = paint(elsewhere, tmp_path / "again", f"from={path}", f"ckpt={runs / 'painter/checkpoints/best.ckpt'}")
    assert is_same(path, again)
    with pytest.raises(UserError, match="was painted from noise: leave muse out"):
        paint(runs, tmp_path / "again", f"from={path}", f"muse={art / 'truchet'}")
    plain = tmp_path / "plain.png"
    picture(1).save(plain)
    with pytest.raises(UserError, match="does not say how it was painted"):
        paint(runs, tmp_path / "again", f"from={plain}")
    info = PngImagePlugin.PngInfo()
    info.add_itxt(origin.TEXT, json.dumps({"artdiff": "0.2.0", "checkpoint": "best.ckpt", "seed": 1}))
    picture(1).save(plain, pnginfo=info)
    with pytest.raises(UserError, match=r"painted by artdiff 0\.2\.0, which did not note its checkpoint"):
        paint(runs, tmp_path / "again", f"from={plain}")


def test_a_checkpoint_that_was_replaced_is_not_taken(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    path, _ = paint(tmp_path / "runs", tmp_path / "out", "ckpt=last", "label=truchet", "n=1", "steps=2")
    (tmp_path / "runs/painter/checkpoints/best.ckpt").write_bytes(b"other")
    with pytest.raises(UserError, match=r"which is not in .*runs"):
        paint(tmp_path / "runs", tmp_path / "again", f"from={path}")


def test_other_formats_are_painted_again_too(runs, tmp_path, caplog):
    path, _ = paint(runs, tmp_path / "out", "ckpt=last", "label=truchet", "n=1", "steps=2", "format=webp")
    assert path.suffix == ".webp"
    (again,) = paint(runs, tmp_path / "again", f"from={path}")
    assert again.suffix == ".png"
    assert "only a PNG keeps every pixel" in caplog.text
    painting = artdiff.load(runs / "painter", device="cpu").repaint(path)
    assert np.array_equal(np.asarray(painting.picture), np.asarray(Image.open(again)))
    painting.save(tmp_path / "mine.jpg", keep_settings=False)
    assert Image.open(tmp_path / "mine.jpg").format == "JPEG"


@pytest.mark.parametrize("solver", ["os.system", {"_target_": "os.getcwd"}, {"_target_": "subprocess.run"}])
def test_a_picture_cannot_ask_for_code(runs, tmp_path, solver):
    path, _ = paint(runs, tmp_path / "out", "ckpt=last", "label=truchet", "n=1", "steps=2")
    origin.save(picture(1), tmp_path / "hostile.png", Origin(origin.settings_of(path) | {"solver": solver}))
    with pytest.raises(UserError, match="painted with a solver that is code outside artdiff"):
        paint(runs, tmp_path / "again", f"from={tmp_path / 'hostile.png'}")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": -1}, "cannot be painted again: seed must be"),
        ({"label": "none of these"}, "cannot be painted again: label=none of these is not known"),
        ({"steps": "many"}, "cannot be painted again: steps must be"),
        ({"seed": None}, "does not say how it was painted: seed is missing"),
        ({"weights": "other"}, "weights must be averaged or raw, got other"),
    ],
)
def test_settings_that_were_changed_are_one_line(runs, tmp_path, changed, message):
    path, _ = paint(runs, tmp_path / "out", "ckpt=last", "label=truchet", "n=1", "steps=2")
    origin.save(picture(1), tmp_path / "changed.png", Origin(origin.settings_of(path) | changed))
    with pytest.raises(UserError, match=message):
        paint(runs, tmp_path / "again", f"from={tmp_path / 'changed.png'}")


def test_sheets_and_strips_are_not_painted_again(runs, tmp_path):
    paint(runs, tmp_path / "out", "ckpt=last", "label=truchet", "n=1", "steps=2", "trajectory=true")
    for name, kind in (("sheet", "sheet"), ("truchet_0_trajectory", "trajectory")):
        with pytest.raises(UserError, match=f"is a {kind} and not a single picture"):
            paint(runs, tmp_path / "again", f"from={tmp_path / 'out' / name}.png")


def test_several_muses_are_too_many(runs, art, tmp_path):
    muse = next((art / "truchet").iterdir())
    path, _ = paint(runs, tmp_path / "out", "ckpt=last", f"muse={muse}", "steps=2")
    with pytest.raises(UserError, match="holds 8 pictures: give the one"):
        paint(runs, tmp_path / "again", f"from={path}", f"muse={art / 'truchet'}")


def test_a_picture_larger_than_usual_is_painted_again(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("artdiff.painter.MOST_PAINTED", 300)
    words = ("label=truchet", "n=1", "steps=1", "size=32x16", "max_pixels=600")
    path, _ = paint(runs, tmp_path / "out", "ckpt=last", *words)
    (again,) = paint(runs, tmp_path / "again", f"from={path}")
    assert is_same(path, again)


def test_a_reconstruction_is_not_repainted(art, runs, tmp_path):
    train(small(art, tmp_path / "copier", "data.image_size=16", "loss=mse"))
    path, _ = paint(runs, tmp_path / "out", f"ckpt={tmp_path / 'copier'}", f"muse={next((art / 'truchet').iterdir())}")
    with pytest.raises(UserError, match="is a reconstruction"):
        paint(runs, tmp_path / "again", f"from={path}", f"ckpt={tmp_path / 'copier'}")
    assert rights(path.read_bytes())["made as"] == COMPOSITE
