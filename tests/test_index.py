"""Every file is used, a copy, or set aside; the split depends on content; look-alikes stay together."""

import csv
import hashlib
import io
import shutil

import pytest
import yaml
from conftest import picture, put

from artdiff import UserError
from artdiff.ingest import duplicates
from artdiff.ingest.card import data_card
from artdiff.ingest.decode import Transform, decode
from artdiff.ingest.index import take_stock
from artdiff.ingest.pool import Limits

LARGE = (160, 120)


def stock(root, tmp_path, **changes):
    settings = {
        "min_side": 0,
        "exclude": None,
        "val_fraction": 0.2,
        "cache_dir": tmp_path / "cache",
        "keep_pixels": True,
    }
    return take_stock(
        root, transform=Transform(16, "squash", (255, 255, 255)), limits=Limits(20, 2), **settings | changes
    )


def sides(catalogue):
    return {one.path: one.split for one in catalogue.used}


def manifest(catalogue):
    return {row["file"]: row for row in csv.DictReader(io.StringIO(catalogue.manifest(), newline=""), delimiter="\t")}


def save(path, seed, size=LARGE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, LARGE).resize(size).save(path, **options)


def test_every_file_ends_in_one_place(tmp_path):
    root = tmp_path / "root"
    for index in range(6):
        put(root / f"art/{index}.jpg")
    shutil.copy(root / "art/3.jpg", root / "art/odd\tname\n.jpg")
    (root / "art/page.jpg").write_bytes(b"<html>404</html>")
    (root / "art/empty.png").write_bytes(b"")
    (root / "art/small.png").write_bytes(b"")
    picture(1, (9, 40)).save(root / "art/small.png")
    (root / ".DS_Store").write_bytes(b"x")
    catalogue = stock(root, tmp_path, min_side=10)
    assert [one.path for one in catalogue.used] == [f"art/{index}.jpg" for index in range(6)]
    assert [(one.path, one.copy_of) for one in catalogue.copies] == [("art/odd\tname\n.jpg", "art/3.jpg")]
    assert catalogue.set_aside == [
        (".DS_Store", "hidden"),
        ("art/empty.png", "empty file"),
        ("art/page.jpg", "not a picture (HTML)"),
        ("art/small.png", "smaller than data.min_side: 9 x 40"),
    ]
    catalogue.write_set_aside(tmp_path / "set_aside.tsv")
    assert "art/page.jpg\tnot a picture (HTML)\n" in (tmp_path / "set_aside.tsv").read_text()


def test_the_split_depends_on_content_alone(tmp_path):
    root = tmp_path / "root"
    for index in range(60):
        put(root / f"art/{index}.jpg", index)
    before = sides(stock(root, tmp_path))
    assert 3 <= list(before.values()).count("validation") <= 25
    for index in range(60, 120):
        put(root / f"more/{index}.jpg", index)
    after = sides(stock(root, tmp_path))
    assert all(after[path] == side for path, side in before.items())
    (root / "art").rename(root / "zzz")
    moved = sides(stock(root, tmp_path))
    assert all(moved[path.replace("art/", "zzz/")] == side for path, side in before.items())


def test_two_pictures_are_one_on_either_side(tmp_path, caplog):
    for index in range(2):
        put(tmp_path / f"root/{index}.jpg", index)
    assert sorted(sides(stock(tmp_path / "root", tmp_path, val_fraction=1e-9)).values()) == ["train", "validation"]
    assert "so few pictures that none falls into data.val_fraction" in caplog.text


def test_look_alikes_stay_together_and_a_smaller_one_moves_no_other(tmp_path):
    root = tmp_path / "root"
    for seed in range(40):
        save(root / f"{seed}.png", seed)
    before = stock(root, tmp_path)
    assert not any(one.looks_like for one in before.used)
    for seed in range(40):
        save(root / f"{seed} again.jpg", seed, quality=60)
        save(root / f"{seed} small.jpg", seed, size=(80, 60), quality=85)
    after = stock(root, tmp_path)
    by_path = sides(after)
    assert all(by_path[path] == side for path, side in sides(before).items())
    for seed in range(40):
        assert by_path[f"{seed}.png"] == by_path[f"{seed} again.jpg"] == by_path[f"{seed} small.jpg"]
    assert {one.looks_like for one in after.used} == {f"{seed}.png" for seed in range(40)}


def test_folders_that_say_the_split_are_kept_to_and_no_content_crosses(tmp_path):
    root = tmp_path / "root"
    for seed in range(4):
        save(root / f"train/a/{seed}.png", seed)
        save(root / f"val/a/{10 + seed}.png", 10 + seed)
    shutil.copy(root / "val/a/10.png", root / "train/a/leak.png")
    save(root / "train/a/like 11.jpg", 11, quality=70)
    shutil.copy(root / "train/a/0.png", root / "train/a/again.png")
    catalogue = stock(root, tmp_path)
    rows = manifest(catalogue)
    assert {path for path, row in rows.items() if row["split"] == "validation"} == {
        *(f"val/a/{10 + seed}.png" for seed in range(4)),
        *("train/a/leak.png", "train/a/like 11.jpg"),
    }
    assert rows["train/a/leak.png"]["copy_of"] == "val/a/10.png"
    assert catalogue.astray == ["train/a/leak.png"]


def test_a_manifest_has_a_row_for_each_picture_and_its_own_hash(tmp_path):
    root = tmp_path / "root"
    for index in range(4):
        put(root / f"a/{index}.jpg", index)
    shutil.copy(root / "a/1.jpg", root / "a/copy.jpg")
    (root / "metadata.csv").write_text("file_name,license,title,split\na/1.jpg,cc0-1.0,A horse,odd\n")
    catalogue = stock(root, tmp_path)
    catalogue.write_manifest(tmp_path / "manifest.tsv")
    assert hashlib.sha256((tmp_path / "manifest.tsv").read_bytes()).hexdigest() == catalogue.digest()
    rows = manifest(catalogue)
    assert len(rows) == 5
    content = (root / "a/1.jpg").read_bytes()
    expected = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": str(len(content)), "class": "a"}
    expected |= {
        "width": "48",
        "height": "40",
        "license": "cc0-1.0",
        "source": "",
        "title": "A horse",
        "metadata.split": "odd",
    }
    assert expected.items() <= rows["a/1.jpg"].items()


# exclusion


def excluded(root, tmp_path, *lines):
    (tmp_path / "leave out.txt").write_text("\n".join(lines))
    catalogue = stock(root, tmp_path, exclude=tmp_path / "leave out.txt")
    return {path for path, reason in catalogue.set_aside if reason.startswith("left out by data.exclude")}, catalogue


def test_excluded_are_paths_folders_and_contents_with_all_their_copies(tmp_path, caplog, monkeypatch):
    root = tmp_path / "root"
    for name in ("a/0", "a/1", "a/2", "b/3", "b/4", "c/5", "c/6", "c/7 x"):
        put(root / f"{name}.jpg")
    put(root / "#8.jpg")
    shutil.copy(root / "a/0.jpg", root / "c/copy of 0.jpg")
    sha256 = hashlib.sha256((root / "a/1.jpg").read_bytes()).hexdigest()
    monkeypatch.chdir(tmp_path)
    left_out, catalogue = excluded(
        root,
        tmp_path,
        *("# a comment", "", "a/0.jpg", f"{sha256.upper()}  a/1.jpg", "b\tand what else a list says", "root/c/5.jpg"),
        "#8.jpg",
        *(f"{root}/c/6.jpg", "c/7 x.jpg ", "lost.jpg", f"sha256:{'0' * 64}"),
    )
    assert left_out == {
        *("a/0.jpg", "c/copy of 0.jpg", "a/1.jpg", "b/3.jpg", "b/4.jpg", "c/5.jpg", "c/6.jpg", "c/7 x.jpg"),
        "#8.jpg",
    }
    assert [one.path for one in catalogue.used] == ["a/2.jpg"]
    assert "2 entries of data.exclude" in caplog.text
    assert "lost.jpg" in caplog.text
    assert catalogue.pixels.shape[0] == 1  # what is left out is not decoded either


def test_a_list_that_is_no_text_is_said(tmp_path):
    put(tmp_path / "root/1.jpg")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        stock(tmp_path / "root", tmp_path, exclude=tmp_path)


# similarity


def fingerprint(content):
    return decode(content, Transform(64, "squash", (255, 255, 255)))[1].fingerprint


def groups(prints):
    return duplicates.groups(duplicates.near_pairs(prints))


def encoded(image, **options):
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


@pytest.mark.parametrize("seed", range(5))
def test_what_a_picture_looks_like_survives_handling(seed):
    original = picture(seed, (320, 240))
    prints = [
        fingerprint(encoded(original, format="PNG")),
        fingerprint(encoded(original, format="JPEG", quality=30)),
        fingerprint(encoded(original.resize((110, 90)), format="JPEG")),
        fingerprint(encoded(original.point(lambda value: min(255, int(value * 1.1))), format="PNG")),
        fingerprint(encoded(original.crop((3, 2, 317, 238)), format="PNG")),
        fingerprint(encoded(picture(seed + 50, (320, 240)), format="PNG")),
    ]
    assert duplicates.groups(duplicates.near_pairs(prints)) == [[0, 1, 2, 3, 4]]


def test_pictures_without_shapes_are_not_compared():
    flat = [fingerprint(encoded(picture(0).resize((1, 1)).resize((64, 64)), format="PNG")) for _ in range(2)]
    assert flat == ["", ""]
    assert duplicates.near_pairs(flat) == []


def test_groups_are_chains_and_equal_prints_join():
    ends = fingerprint(encoded(picture(0, (320, 240)), format="PNG"))
    bits = bytearray.fromhex(ends)
    chain = [ends]
    for byte in range(8, 20, 4):  # 32 bits further each time: far from the first soon
        bits[byte : byte + 4] = bytes(value ^ 255 for value in bits[byte : byte + 4])
        chain.append(bits.hex())
    other = fingerprint(encoded(picture(1, (320, 240)), format="PNG"))
    assert groups([other, *chain]) == [[1, 2, 3, 4]]
    assert groups([chain[0], "", chain[3]]) == []
    assert groups([other, ends, other]) == [[0, 2]]


# the card


def test_a_data_card_counts_and_does_not_guess(tmp_path):
    root = tmp_path / "my art"
    for index in range(6):
        put(root / f"a/{index}.jpg", index)
    picture(7).convert("L").save(root / "a/grey.png")
    put(root / "b|c/8.jpg", 8)
    shutil.copy(root / "a/1.jpg", root / "b|c/1.jpg")
    (root / "page.jpg").write_text("<html>")
    card = data_card(stock(root, tmp_path), "my art")
    _, front, body = card.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "unknown"
    assert front["pretty_name"] == "my art"
    assert front["size_categories"] == ["n<1K"]
    assert front["dataset_info"]["features"][1]["dtype"]["class_label"]["names"] == {"0": "a", "1": "b|c"}
    rows = [[cell.strip() for cell in line.replace("\\|", "¦").split("|")[1:-1]] for line in body.splitlines()]
    assert ["a", "7", "88 %", "48 x 40", "40 to 40", "0 %", "0 %", "100 %", "14 %"] in rows
    assert ["b¦c", "1", "12 %", "48 x 40", "40 to 40", "0 %", "0 %", "100 %", "0 %"] in rows
    assert ["not a picture (HTML)", "1"] in rows
    assert ["unknown", "8"] in rows
    assert "1 of them lie in another class than that one:\n  - b|c/1.jpg = a/1.jpg" in body


def test_licences_that_are_given_are_counted(tmp_path):
    root = tmp_path / "root"
    for index in range(4):
        put(root / f"{index}.jpg", index)
    (root / "metadata.csv").write_text("file_name,license\n" + "".join(f"{i}.jpg,CC0-1.0\n" for i in range(4)))
    front = yaml.safe_load(data_card(stock(root, tmp_path), "x").split("---\n")[1])
    assert front["license"] == "cc0-1.0"
    (root / "metadata.csv").write_text("file_name,license\n0.jpg,GPL\n")
    front = yaml.safe_load(data_card(stock(root, tmp_path), "x").split("---\n")[1])
    assert (front["license"], front["license_name"]) == ("other", "several")
