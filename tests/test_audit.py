"""What the audit writes: one pool of processes for all sheets, and names that no text can hold."""

import numpy as np
import pytest
import yaml
from conftest import picture, put
from PIL import Image

import artdiff
from artdiff.ingest import pool, tables


@pytest.fixture
def started(monkeypatch):
    """The processes that decode, as they are started."""
    found, real = [], pool._Child

    def counted(settings):
        found.append(real(settings))
        return found[-1]

    monkeypatch.setattr(pool, "_Child", counted)
    return found


def test_all_contact_sheets_share_their_processes(tmp_path, started):
    for number in range(20):
        put(tmp_path / f"root/class {number:02}/{number}.jpg", number)
    found = artdiff.inspect(tmp_path / "root", cache_dir=str(tmp_path / "cache"))
    started.clear()
    written = found.write(tmp_path / "out", contact_sheet=4)
    assert 0 < len(started) <= pool.cores()
    assert [path.name for path in written[3:]] == [
        f"contact_sheet_{number}_class_{number:02}.png" for number in range(20)
    ]
    for number in (0, 13):
        with Image.open(written[3 + number]) as sheet:
            shown = np.asarray(sheet.convert("RGB").crop((0, 6, 64, 58)).resize((12, 10), Image.Resampling.BOX), int)
        expected = np.asarray(picture(number).resize((12, 10), Image.Resampling.BOX), int)
        assert np.abs(shown - expected).mean() < 12


def test_a_sheet_is_spread_over_its_class_and_skips_what_cannot_be_read(tmp_path):
    for number in range(10):
        put(tmp_path / f"root/{number}.jpg", number)
    found = artdiff.inspect(tmp_path / "root", cache_dir=str(tmp_path / "cache"))
    (tmp_path / "root/5.jpg").unlink()
    (sheet,) = [sheet for _, _, sheet in found._contact_sheets(4)]
    assert sheet.size == (3 * 64, 64)
    assert list(found._contact_sheets(0)) == []


def test_names_that_are_no_text(tmp_path):
    root = tmp_path / "caf\udce9"
    for number, label in enumerate(("a\udce9", "two\nlines", 'say "a"', "tab\there", "\x85 \u2028")):
        for place in range(3):
            put(root / label / f"\udce9{place}\n.jpg", 10 * number + place)
    (root / "a\udce9/page\udce9.jpg").write_text("<html>")
    found = artdiff.inspect(root, cache_dir=str(tmp_path / "cache"))
    written = found.write(tmp_path / "out", contact_sheet=2)
    assert all(path.exists() for path in written)
    heading, *rows = tables.rows(tables.decoded((tmp_path / "out/manifest.tsv").read_bytes()))
    assert {row[heading.index("class")] for row in rows} == set(found.classes)
    assert len(rows) == 15
    assert "page\\xe9" not in (tmp_path / "out/set_aside.tsv").read_text(errors="surrogateescape")
    card = (tmp_path / "out/data_card.md").read_text()
    names = yaml.safe_load(card.split("---\n")[1])["dataset_info"]["features"][1]["dtype"]["class_label"]["names"]
    assert set(names.values()) == {tables.shown(name) for name in found.classes}


def test_metadata_that_is_no_text(tmp_path):
    for number in range(4):
        put(tmp_path / f"root/{number}.jpg", number)
    lines = [
        f'{{"file_name": "{number}.jpg", "label": "x\\ud800", "license": "y\\udfff\\u0085"}}' for number in range(4)
    ]
    (tmp_path / "root/metadata.jsonl").write_text("\n".join(lines))
    found = artdiff.inspect(tmp_path / "root", cache_dir=str(tmp_path / "cache"))
    found.write(tmp_path / "out", contact_sheet=2)
    assert found.classes == ["x?"]
    assert len(found.index.digest()) == 64
