"""Every file is used, a copy, or rejected; the split depends on content; near-duplicates stay together."""

import csv
import hashlib
import io
import shutil

import numpy as np
import pytest
import yaml
from conftest import picture, put
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from artdiff import UserError
from artdiff.data.loader import Pictures
from artdiff.ingest import duplicates, split, tables
from artdiff.ingest.card import data_card
from artdiff.ingest.decode import Facts, Transform, decode
from artdiff.ingest.fingerprint import BYTES, NEAR, NEAR_COLOUR, NEAR_FIRST
from artdiff.ingest.index import build_index
from artdiff.ingest.picture import Picture
from artdiff.ingest.source import Folder
from artdiff.settings.data import Limits

LARGE = (160, 120)


def index_of(root, tmp_path, **changes):
    settings = {
        "transform": Transform(16, "squash", (255, 255, 255)),
        "limits": Limits(seconds=20, gigabytes=2),
        "min_side": 0,
        "exclude": None,
        "val_fraction": 0.2,
        "cache_dir": tmp_path / "cache",
        "keep_pixels": True,
    }
    return build_index(Folder(root), **settings | changes)


def sides(index):
    return {one.path: one.split for one in index.used}


def manifest(index):
    return {row["file"]: row for row in csv.DictReader(io.StringIO(index.manifest(), newline=""), delimiter="\t")}


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
    index = index_of(root, tmp_path, min_side=10)
    assert [one.path for one in index.used] == [f"art/{index}.jpg" for index in range(6)]
    assert [(one.path, one.copy_of) for one in index.copies] == [("art/odd\tname\n.jpg", "art/3.jpg")]
    assert index.rejected == [
        (".DS_Store", "hidden"),
        ("art/empty.png", "empty file: copy or download it again"),
        ("art/page.jpg", "not a picture (HTML)"),
        ("art/small.png", "smaller than data.min_side: 9 x 40"),
    ]
    tables.write(tmp_path / "set_aside.tsv", index.rejections())
    assert "art/page.jpg\tnot a picture (HTML)\n" in (tmp_path / "set_aside.tsv").read_text()


def test_the_split_depends_on_content_alone(tmp_path):
    root = tmp_path / "root"
    for index in range(60):
        put(root / f"art/{index}.jpg", index)
    before = sides(index_of(root, tmp_path))
    assert 3 <= list(before.values()).count("validation") <= 25
    for index in range(60, 120):
        put(root / f"more/{index}.jpg", index)
    after = sides(index_of(root, tmp_path))
    assert all(after[path] == side for path, side in before.items())
    (root / "art").rename(root / "zzz")
    moved = sides(index_of(root, tmp_path))
    assert all(moved[path.replace("art/", "zzz/")] == side for path, side in before.items())


def test_two_pictures_are_one_on_either_side(tmp_path, caplog):
    for index in range(2):
        put(tmp_path / f"root/{index}.jpg", index)
    assert sorted(sides(index_of(tmp_path / "root", tmp_path, val_fraction=1e-9)).values()) == ["train", "validation"]
    assert "selects none of so few pictures" in caplog.text


def test_near_duplicates_stay_together_and_a_smaller_one_moves_no_other(tmp_path):
    root = tmp_path / "root"
    for seed in range(40):
        save(root / f"{seed}.png", seed)
    before = index_of(root, tmp_path)
    assert not any(one.looks_like for one in before.used)
    for seed in range(40):
        save(root / f"{seed} again.jpg", seed, quality=60)
        save(root / f"{seed} small.jpg", seed, size=(80, 60), quality=85)
    after = index_of(root, tmp_path)
    by_path = sides(after)
    assert all(by_path[path] == side for path, side in sides(before).items())
    for seed in range(40):
        assert by_path[f"{seed}.png"] == by_path[f"{seed} again.jpg"] == by_path[f"{seed} small.jpg"]
    assert {one.looks_like for one in after.used} == {f"{seed}.png" for seed in range(40)}


def test_folders_decide_the_split_but_no_content_crosses_it(tmp_path):
    root = tmp_path / "root"
    for seed in range(4):
        save(root / f"train/a/{seed}.png", seed)
        save(root / f"val/a/{10 + seed}.png", 10 + seed)
    shutil.copy(root / "val/a/10.png", root / "train/a/leak.png")
    save(root / "train/a/like 11.jpg", 11, quality=70)
    shutil.copy(root / "train/a/0.png", root / "train/a/again.png")
    index = index_of(root, tmp_path)
    rows = manifest(index)
    assert {path for path, row in rows.items() if row["split"] == "validation"} == {
        *(f"val/a/{10 + seed}.png" for seed in range(4)),
        *("train/a/leak.png", "train/a/like 11.jpg"),
    }
    assert rows["train/a/leak.png"]["copy_of"] == "val/a/10.png"
    assert index.leaks == ["train/a/leak.png"]


def test_a_manifest_has_a_line_for_each_picture_and_its_own_hash(tmp_path):
    root = tmp_path / "root"
    for index in range(4):
        put(root / f"a/{index}.jpg", index)
    shutil.copy(root / "a/1.jpg", root / "a/copy.jpg")
    (root / "metadata.csv").write_text("file_name,license,title,split\na/1.jpg,cc0-1.0,A horse,odd\n")
    index = index_of(root, tmp_path)
    tables.write(tmp_path / "manifest.tsv", index.manifest())
    assert hashlib.sha256((tmp_path / "manifest.tsv").read_bytes()).hexdigest() == index.digest()
    rows = manifest(index)
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


def note(text):
    """What makes a PNG of the same pixels another file."""
    info = PngInfo()
    info.add_text("note", text)
    return info


# exclusion


def excluded(root, tmp_path, *lines):
    (tmp_path / "leave out.txt").write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    index = index_of(root, tmp_path, exclude=tmp_path / "leave out.txt")
    return {path for path, reason in index.rejected if reason.startswith("left out by data.exclude")}, index


def test_paths_folders_and_contents_are_excluded_with_all_their_copies(tmp_path, caplog, monkeypatch):
    root = tmp_path / "root"
    for name in ("a/0", "a/1", "a/2", "b/3", "b/4", "c/5", "c/6", "c/7 x"):
        put(root / f"{name}.jpg")
    put(root / "#8.jpg")
    shutil.copy(root / "a/0.jpg", root / "c/copy of 0.jpg")
    sha256 = hashlib.sha256((root / "a/1.jpg").read_bytes()).hexdigest()
    monkeypatch.chdir(tmp_path)
    left_out, index = excluded(
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
    assert [one.path for one in index.used] == ["a/2.jpg"]
    assert "2 entries of data.exclude" in caplog.text
    assert "lost.jpg" in caplog.text
    assert index.pixels.shape[0] == 1  # the others were not decoded


def test_a_list_that_cannot_be_read_is_reported(tmp_path):
    put(tmp_path / "root/1.jpg")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        index_of(tmp_path / "root", tmp_path, exclude=tmp_path)


# similarity


def fingerprint(content):
    return decode(content, Transform(64, "squash", (255, 255, 255)))[1].fingerprint


def groups(fingerprints, compared=None):
    return duplicates.groups(duplicates.near_pairs(fingerprints, compared))


def encoded(image, **options):
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


@pytest.mark.parametrize("seed", range(5))
def test_a_fingerprint_survives_recompression_scaling_and_cropping(seed):
    original = picture(seed, (320, 240))
    prints = [
        fingerprint(encoded(original, format="PNG")),
        fingerprint(encoded(original, format="JPEG", quality=30)),
        fingerprint(encoded(original.resize((110, 90)), format="JPEG")),
        fingerprint(encoded(original.point(lambda value: min(255, int(value * 1.1))), format="PNG")),
        fingerprint(encoded(original.crop((3, 2, 317, 238)), format="PNG")),
        fingerprint(encoded(picture(seed + 50, (320, 240)), format="PNG")),
    ]
    assert groups(prints) == [[0, 1, 2, 3, 4]]


def test_pictures_without_shapes_are_not_compared():
    flat = [fingerprint(encoded(picture(0).resize((1, 1)).resize((64, 64)), format="PNG")) for _ in range(2)]
    assert flat == ["", ""]
    assert len(duplicates.near_pairs(flat)) == 0


def test_groups_are_chains_and_equal_fingerprints_join():
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


def random_fingerprints(rng, count):
    """Fingerprints of which many are near each other: families around few centres."""
    centres = rng.integers(0, 256, (max(2, count // 6), BYTES), dtype=np.uint8)
    found = centres[rng.integers(len(centres), size=count)]
    for one in found:
        for place in rng.integers(32 * 8, size=rng.integers(0, 40)):
            one[place // 8] ^= 1 << (place % 8)
    return [one.tobytes().hex() for one in found]


def pairs_by_definition(fingerprints):
    """Compare everything with everything, without a shortcut; of equal ones only the first."""
    data = [np.frombuffer(bytes.fromhex(one), np.uint8) for one in fingerprints]
    found = set()
    for other in range(len(data)):
        first = fingerprints.index(fingerprints[other])
        if fingerprints[other] and first != other:
            found.add((first, other))
            continue
        for one in range(other):
            if not fingerprints[one] or not fingerprints[other] or fingerprints.index(fingerprints[one]) != one:
                continue
            bits = np.unpackbits(data[one][:32] ^ data[other][:32])
            colours = np.abs(data[one][32:].astype(int) - data[other][32:]).mean()
            if bits[:64].sum() <= NEAR_FIRST and bits.sum() <= NEAR and colours <= NEAR_COLOUR:
                found.add((one, other))
    return found


def pairs_of(fingerprints, compared=None):
    return [tuple(pair) for pair in duplicates.near_pairs(fingerprints, compared).tolist()]


def test_comparing_only_what_is_new_finds_the_same_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "BATCH", 16)
    rng = np.random.default_rng(0)
    pool = [*random_fingerprints(rng, 60), "", ""]
    pool += pool[:10]
    present, near = [], 0
    for _ in range(12):
        present = [one for one in present if rng.random() < 0.8]
        present += [pool[place] for place in rng.integers(len(pool), size=12)]
        rng.shuffle(present)
        found = pairs_of(present, duplicates.Compared(tmp_path / "some.near"))
        assert set(found) == pairs_by_definition(present)
        assert len(found) == len(set(found))
        near += len(found)
    assert near > 100


def test_only_new_fingerprints_are_compared(tmp_path, monkeypatch):
    compared = []
    near = duplicates.near
    monkeypatch.setattr(duplicates, "near", lambda data, start: compared.append(len(data) - start) or near(data, start))
    all_of_them = random_fingerprints(np.random.default_rng(0), 50)
    for count in (40, 40, 20, 41):
        duplicates.near_pairs(all_of_them[:count], duplicates.Compared(tmp_path / "some.near"))
    assert compared == [40, 1]


@pytest.mark.parametrize("damage", ["torn", "flipped", "zeros", "unwritable"])
def test_damaged_comparisons_are_made_again(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(duplicates, "BATCH", 16)
    all_of_them = random_fingerprints(np.random.default_rng(0), 60)
    path = tmp_path / "some.near"
    expected = pairs_of(all_of_them)
    duplicates.near_pairs(all_of_them[:50], duplicates.Compared(path))
    content = bytearray(path.read_bytes())
    if damage == "unwritable":
        path.unlink()
        path.mkdir()
    else:
        content[len(content) // 2] ^= damage == "flipped"
        path.write_bytes(content[:-5] if damage == "torn" else content + bytes(100 * (damage == "zeros")))
    for _ in range(2):
        assert pairs_of(all_of_them, duplicates.Compared(path)) == expected


# large groups of near-duplicates


def known(prints, prefix="", side="train"):
    """Pictures with these fingerprints, and contents that depend on them."""
    return [
        Picture(
            f"{prefix}{place:03}.png",
            100,
            hashlib.sha256(one).hexdigest(),
            Facts(9, 9, False, one.hex()),
            0,
            None,
            side,
            {},
        )
        for place, one in enumerate(prints)
    ]


def flipped(rng, one, first, others):
    """A fingerprint with so many of its first 64 bits and so many of the other 192 flipped."""
    bits = np.unpackbits(one)
    bits[rng.choice(64, first, replace=False)] ^= 1
    bits[64 + rng.choice(192, others, replace=False)] ^= 1
    return np.packbits(bits)


def pan(seed, frames):
    """Fingerprints of the frames of a slow pan: each differs from the next in 14 bits, so it is near three or so."""
    rng = np.random.default_rng(seed)
    one, colours = rng.integers(0, 256, 32, dtype=np.uint8), rng.integers(0, 256, 48, dtype=np.uint8)
    found = []
    for _ in range(frames):
        found.append(one.tobytes() + colours.tobytes())
        one = flipped(rng, one, 3, 11)
    return found


def icons(seed, count, *, most=20):
    """Fingerprints that differ little from a common one."""
    rng = np.random.default_rng(seed)
    one, colours = rng.integers(0, 256, 32, dtype=np.uint8), bytes(48)
    return [flipped(rng, one, rng.integers(5), rng.integers(most)).tobytes() + colours for _ in range(count)]


def split_of(pictures, val_fraction=0.1):
    pairs = duplicates.near_pairs([one.facts.fingerprint for one in pictures])
    placed = split.by_content(pictures, pairs, val_fraction)
    side = {one.path: one.split for one in placed.pictures} | dict.fromkeys(placed.left_out, "left out")
    named = [(side[pictures[one].path], side[pictures[other].path]) for one, other in pairs.tolist()]
    across = sum({"train", "validation"} == set(pair) for pair in named)
    return side, list(side.values()).count("validation") / len(pictures), across


@pytest.mark.parametrize("seed", range(6))
def test_a_long_chain_of_near_duplicates_is_cut(caplog, seed):
    frames = known([*pan(seed, 120), *pan(seed + 10, 10), *pan(seed + 20, 10)])
    side, share, across = split_of(frames)
    assert 0.07 < share < 0.25
    assert across == 0
    assert 0 < list(side.values()).count("left out") <= 14
    assert not caplog.text
    again, _, _ = split_of([*known(pan(99, 30), "more "), *reversed(frames)])
    assert again.items() >= side.items()
    moved, _, _ = split_of([one._replace(path=f"moved/{one.path}") for one in frames])
    assert moved == {f"moved/{path}": what for path, what in side.items()}


def test_one_long_chain_alone_is_cut(caplog):
    _, share, across = split_of(known(pan(0, 60)))
    assert (share, across) == (pytest.approx(0.1, abs=0.02), 0)
    assert not caplog.text


@pytest.mark.parametrize(("others", "most"), [(0, 20), (0, 4), (500, 20), (30, 1)])
def test_hundreds_of_pictures_that_differ_little_have_a_validation_set(caplog, others, most):
    alike = icons(0, 400, most=most)
    rest = [np.random.default_rng(place).bytes(BYTES) for place in range(others)]
    pictures = known([*dict.fromkeys([*alike, *rest])])
    side, share, across = split_of(pictures)
    assert 0.04 < share < 0.2
    assert "left out" not in side.values()
    assert across > 0
    told = "held-out pictures look like training pictures" if others else "all pictures are near-duplicates"
    assert told in caplog.text
    again, _, _ = split_of([*known([bytes(range(80)), bytes(range(9, 89))], "more "), *reversed(pictures)])
    assert again.items() >= side.items()


def test_versions_of_a_picture_stay_together_in_a_crowd():
    """Pictures that differ little go by their own hash, but not recompressed copies of each."""
    rng = np.random.default_rng(0)
    crowd = [np.frombuffer(one, np.uint8) for one in icons(0, 60)]
    versions = [[flipped(rng, one[:32], 0, 3).tobytes() + bytes(48) for _ in range(3)] for one in crowd]
    side, _, _ = split_of(known([one for group in versions for one in group]))
    sides = [*side.values()]
    apart = sum(len(set(sides[3 * place : 3 * place + 3])) > 1 for place in range(60))
    assert apart < 6  # where a version is nearer to another picture


def test_the_larger_part_is_never_held_out(caplog):
    for seed in range(40):
        pictures = known(
            [*icons(seed, 12, most=3), *(np.random.default_rng([seed, one]).bytes(80) for one in range(6))]
        )
        _, share, across = split_of(pictures)
        assert 0 < share < 0.5
        assert across == 0
    assert "one is held out" in caplog.text


def test_a_forced_group_is_told_by_its_size(caplog):
    pictures = known([*icons(0, 3, most=3), *icons(1, 3, most=3)])
    _, share, _ = split_of(pictures, 1e-9)
    assert share == 0.5
    assert "data.val_fraction=1e-09 selects none of so few pictures: 3 near-duplicates are held out" in caplog.text


@pytest.mark.parametrize("scattered", [False, True])
def test_a_chain_does_not_pull_all_of_it_to_the_side_that_folders_hold_out(caplog, scattered):
    frames = known(pan(0, 120), "train/")
    held = range(0, 120, 10) if scattered else range(50, 62)
    frames = [one._replace(split="validation") if place in held else one for place, one in enumerate(frames)]
    placed = split.by_folders(frames, duplicates.near_pairs([one.facts.fingerprint for one in frames]))
    assert sum(one.split == "validation" for one in placed.pictures) == 12
    assert len(placed.left_out) == 0 if scattered else 3 <= len(placed.left_out) <= 12
    assert ("of 108 training pictures look like a picture that the folders hold out" in caplog.text) == scattered


def test_pictures_left_out_of_training_are_listed_with_their_copies(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    scene = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).resize((256, 128))
    for frame in range(40):
        scene.crop((frame, 0, frame + 128, 128)).resize((64, 64)).save(root / f"{frame:02}.png")
    index = index_of(root, tmp_path, val_fraction=0.1)
    held_out = {one.path for one in index.on("validation")}
    left_out = dict(index.rejected)
    assert len(held_out) == pytest.approx(4, abs=1)
    assert 0 < len(left_out) <= 13
    for reason in left_out.values():
        about, _, path = reason.partition(": ")
        assert about == "too much like a held-out picture"
        assert path in held_out
    assert any("set aside" in line and about in line for line in index.summary(root, ""))
    shutil.copy(root / min(left_out), root / "copy.png")
    shutil.copy(root / min(held_out), root / "other.png")
    again = index_of(root, tmp_path, val_fraction=0.1)
    assert {*sides(again), *dict(again.rejected), *(one.path for one in again.copies)} == {
        one.name for one in root.iterdir()
    }
    assert dict(again.rejected).keys() == {*left_out, "copy.png"}
    assert "each group is in one split" in data_card(again, "pan")


# classes


def test_labels_come_from_pictures_that_are_trained_on(tmp_path, caplog):
    root = tmp_path / "root"
    for name in ("train/ink/1", "train/ink/2", "validation/ink/3", "validation/oil/4", "test/unknown/5"):
        put(root / f"{name}.jpg")
    index = index_of(root, tmp_path)
    assert index.classes == ["ink"]
    assert "these classes have no training picture, so their pictures count as unlabelled: oil, unknown" in caplog.text
    assert "classes ink; " in index.summary(root, "")[-1]
    assert "No picture of these classes is trained on:\n  - oil\n  - unknown" in data_card(index, "x")
    held_out = Pictures.of(index, "validation", None)
    assert held_out.labels.tolist() == [0, -1]


def test_a_class_of_one_picture_that_is_held_out_is_no_class(tmp_path, caplog):
    root = tmp_path / "root"
    for number in range(40):
        put(root / f"{number:02}/1.jpg", number)
    index = index_of(root, tmp_path, val_fraction=0.1)
    held_out = [one.label for one in index.on("validation")]
    assert held_out
    assert index.classes == sorted({f"{number:02}" for number in range(40)} - {*held_out})
    assert f"count as unlabelled: {', '.join(sorted(held_out)[:8])}" in caplog.text
    assert set(Pictures.of(index, "validation", None).labels.tolist()) == {-1}


def test_a_near_duplicate_that_is_removed_or_too_small_leaves_the_others_together(tmp_path):
    root = tmp_path / "root"
    for seed in range(8):
        save(root / f"{seed}.png", seed)
    for name in ("first", "second", "third"):
        save(root / f"{name}.png", 3, pnginfo=note(name))
    for gone in (None, "first.png", "3.png"):
        if gone:
            (root / gone).unlink()
        names = {"3.png", "first.png", "second.png", "third.png"} & {path.name for path in root.iterdir()}
        index = index_of(root, tmp_path)
        assert {one.path for one in index.used if one.looks_like} == names
        assert len({one.split for one in index.used if one.looks_like}) == 1


# the card


def test_a_data_card_counts_and_does_not_guess(tmp_path):
    root = tmp_path / "my art"
    for index in range(6):
        put(root / f"a/{index}.jpg", index)
    picture(7).convert("L").save(root / "a/grey.png")
    put(root / "b|c/8.jpg", 8)
    shutil.copy(root / "a/1.jpg", root / "b|c/1.jpg")
    (root / "page.jpg").write_text("<html>")
    card = data_card(index_of(root, tmp_path), "my art")
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
    assert "1 of them are in another class than that picture:\n  - b|c/1.jpg = a/1.jpg" in body


def test_licences_in_the_metadata_are_counted(tmp_path):
    root = tmp_path / "root"
    for index in range(4):
        put(root / f"{index}.jpg", index)
    (root / "metadata.csv").write_text("file_name,license\n" + "".join(f"{i}.jpg,CC0-1.0\n" for i in range(4)))
    front = yaml.safe_load(data_card(index_of(root, tmp_path), "x").split("---\n")[1])
    assert front["license"] == "cc0-1.0"
    (root / "metadata.csv").write_text("file_name,license\n0.jpg,GPL\n")
    front = yaml.safe_load(data_card(index_of(root, tmp_path), "x").split("---\n")[1])
    assert (front["license"], front["license_name"]) == ("other", "several")
