"""What is to be painted: muses of any kind, and names that every disk can hold."""

import numpy as np
import pytest
from conftest import picture, put
from PIL import Image
from test_decode import _bomb

from artdiff.ingest.decode import Transform
from artdiff.plan import canvases, read_muses
from artdiff.settings import PaintSettings

TRANSFORM = Transform(32, "squash", (255, 255, 255))


def read(folder, **settings):
    return {one.file: one for one in read_muses(PaintSettings.with_defaults(muse=str(folder), **settings), TRANSFORM)}


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
