"""What is to be painted: muses of any kind, and names that every disk can hold."""

import numpy as np
import pytest
from conftest import picture, put
from PIL import Image
from test_decode import _bomb

from artdiff import UserError
from artdiff.ingest.decode import Transform
from artdiff.painting.plan import canvases, nearest_size, read_muses
from artdiff.settings.painting import PaintSettings

TRANSFORM = Transform(32, "squash", (255, 255, 255))


def read(folder, **settings):
    asked = PaintSettings.with_defaults(**{"muse": str(folder), "max_pixels": 10**6} | settings)
    return {one.file: one for one in read_muses(asked, TRANSFORM)}


@pytest.mark.parametrize("size", ["train", "own"])
def test_muses_of_any_kind(tmp_path, size, caplog):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "one.png")
    Image.new("RGB", (20_000, 1), "red").save(tmp_path / "long.png")
    (tmp_path / "huge.png").write_bytes(_bomb())
    Image.new("CMYK", (64, 64), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    Image.new("RGB", (48, 40), "white").save(tmp_path / "a.gif", save_all=True, append_images=[picture(1)])
    found = read(tmp_path, size=size)
    own = {"one.png": (1, 1), "long.png": (20_000, 1), "cmyk.jpg": (64, 64), "a.gif": (48, 40)}
    assert {name: one.picture.size for name, one in found.items()} == (
        own if size == "own" else dict.fromkeys(own, (32, 32))
    )
    assert all(found[name].picture.getpixel((0, 0)) == (255, 0, 0) for name in ("one.png", "long.png"))
    assert np.abs(np.subtract(found["cmyk.jpg"].picture.getpixel((0, 0)), (255, 0, 0))).max() <= 2
    assert np.asarray(found["a.gif"].picture).std() > 10  # not the blank first frame
    assert "huge.png (too large: 90,000 x 90,000)" in caplog.text


@pytest.mark.parametrize(
    ("sides", "most", "expected"),
    [
        ((130, 100), 10**6, (128, 96)),
        ((3, 4), 10**6, (16, 16)),
        ((4000, 3000), 12_000_000, (4000, 2992)),
        ((8000, 6000), 12_000_000, (4000, 2992)),
        ((20_000, 1), 16 * 320, (320, 16)),
        ((1, 20_000), 16 * 320, (16, 320)),
        ((500, 500), 256, (16, 16)),
        ((24, 24), 32 * 32 - 1, (16, 16)),
    ],
)
def test_sides_of_a_muse_are_rounded_and_bounded(sides, most, expected):
    assert nearest_size(*sides, 16, most=most) == expected


def test_a_large_muse_is_scaled_down_for_a_painter_and_set_aside_for_a_reconstruction(tmp_path, caplog):
    put(tmp_path / "a.jpg")
    settings = PaintSettings.with_defaults(muse=str(tmp_path), size="own", max_pixels=1000)
    (muse,) = read_muses(settings, TRANSFORM, multiple=8)
    assert muse.picture.size == (32, 24)
    with pytest.raises(UserError, match="holds no picture that can be read"):
        list(read_muses(settings, TRANSFORM))
    assert "48 x 40 is more than max_pixels=1,000" in caplog.text


def test_names_fit_every_disk(tmp_path):
    label = "絵" * 60
    for name in ("ordinary name (1).jpg", "caf\udce9\n.jpg", "🖼" * 60 + ".jpg"):
        put(tmp_path / name)
    muses = read(tmp_path)
    names = [row[0].name for row in canvases(PaintSettings.with_defaults(label=label), [label], [*muses.values()])]
    assert len(names) == 3
    assert "ordinary name (1)_" + "絵" * 20 + "_0" in names
    assert any(name.startswith("caf___") for name in names)
    between = PaintSettings.with_defaults(interpolate=[2**62, 2**62 + 1], label=[label, label + "x"], n=2)
    names += [one.name for one in canvases(between, [label, label + "x"], [])[0]]
    assert max(len(f"{name}_trajectory_2.png".encode()) for name in names) <= 255
