"""Every file is found, the layout is understood, and a folder that cannot be used gives one clear line."""

import json
import os
import sys

import pytest
from conftest import put

from artdiff import UserError
from artdiff.ingest import scan
from artdiff.ingest.layout import lay_out
from artdiff.ingest.tables import shown


def test_scan_finds_every_file_and_rejects_hidden_ones(tmp_path):
    names = ["a/deep/er/one.jpg", "a/odd näme\n.jpg", "b/two.jpg", "loose.jpg"]
    for name in [*names, ".ipynb_checkpoints/x.jpg", ".DS_Store", "a/.hidden/y.jpg", "__MACOSX/b/two.jpg"]:
        put(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a/nowhere.jpg").symlink_to("nothing")
    (tmp_path / "a/itself.jpg").symlink_to("itself.jpg")
    os.mkfifo(tmp_path / "b/pipe.jpg")
    files, rejected = scan.scan(tmp_path)
    assert [file.path for file in files] == names
    assert [(file.bytes, file.mtime) for file in files] == [
        ((tmp_path / name).stat().st_size, (tmp_path / name).stat().st_mtime_ns) for name in names
    ]
    assert [(path, reason.partition(":")[0]) for path, reason in rejected] == [
        (".DS_Store", "hidden"),
        (".ipynb_checkpoints/x.jpg", "hidden"),
        ("__MACOSX/b/two.jpg", "hidden"),
        ("a/.hidden/y.jpg", "hidden"),
        ("a/itself.jpg", "cannot be read"),
        ("a/nowhere.jpg", "cannot be read"),
        ("b/pipe.jpg", "not a file but a pipe, a socket or a device"),
    ]


SYSTEM_FOLDERS = [
    *("@eaDir/one.jpg", "#recycle", "$RECYCLE.BIN/S-1-5", "System Volume Information", "lost+found", "@Recycle"),
    *("@Recently-Snapshot", "#snapshot", "__MACOSX", "Network Trash Folder", "Temporary Items", "RECYCLER", "LOST.DIR"),
    *(".Trashes", ".Spotlight-V100", ".snapshot", ".@__thumb", ".AppleDouble", ".dropbox.cache", ".git", ".thumbnails"),
    *("node_modules", "__pycache__", ".ipynb_checkpoints", "@tmp", "~snapshot", ".Trash-1000", "@SynoDrive"),
]


def test_folders_and_files_of_systems_are_hidden(tmp_path):
    for name in ("a/one.jpg", "@artist/two.jpg", "#1/three.jpg", "recycled/four.jpg", "a/train$.jpg"):
        put(tmp_path / name)
    visible = [file.path for file in scan.scan(tmp_path).files]
    names = [f"{way}/x.jpg" for folder in SYSTEM_FOLDERS for way in (folder, folder.lower(), f"a/{folder.upper()}")]
    names += [f"a/{name}" for name in ("Thumbs.db", "desktop.ini", "._one.jpg", "one.jpg@SynoEAStream", "Icon\r")]
    for name in names:
        put(tmp_path / name)
    files, rejected = scan.scan(tmp_path)
    assert [file.path for file in files] == visible
    assert dict(rejected) == dict.fromkeys(names, "hidden")


def test_hints_do_not_name_folders_of_systems(tmp_path):
    put(tmp_path / "parent/root/@eaDir/one.jpg")
    put(tmp_path / "parent/#recycle/two.jpg")
    with pytest.raises(UserError, match="root holds nothing; expected pictures"):
        scan.scan(tmp_path / "parent/root")


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system refuses undecodable names")
def test_undecodable_names_are_found(tmp_path):
    put(tmp_path / "good.jpg").rename(os.fsdecode(bytes(tmp_path) + b"/b\xe4d.jpg"))
    assert [file.path for file in scan.scan(tmp_path).files] == ["b\udce4d.jpg"]


def test_names_are_shown_in_one_line_of_text():
    assert shown("b\udce4d\n.jpg") == "b\\xe4d\\n.jpg"


def test_links_to_folders_are_followed_once(tmp_path):
    put(tmp_path / "elsewhere/one.jpg")
    root = tmp_path / "root"
    for name in "abcdefghij":  # ten folders that each link to all: 10! ways through them
        put(root / name / "own.jpg")
        for other in "abcdefghij":
            (root / name / f"to_{other}").symlink_to(root / other)
    (root / "itself").symlink_to(root)
    (root / "above").symlink_to(tmp_path)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    files, rejected = scan.scan(root)
    assert [file.path for file in files] == [*(f"{name}/own.jpg" for name in "abcdefghij"), "linked/one.jpg"]
    assert len(rejected) == 102
    reason = "a link to a folder that is read already, or that holds this one"
    assert set(rejected) >= {("above/", reason), ("itself/", reason), ("a/to_b/", reason)}


def test_a_folder_without_permission_is_rejected(tmp_path, monkeypatch):
    put(tmp_path / "open/one.jpg")
    put(tmp_path / "closed/two.jpg")
    scandir = os.scandir

    def denied(path):  # as the system does to all but its administrator
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    files, rejected = scan.scan(tmp_path)
    assert len(files) == 1
    assert rejected == [("closed/", "permission denied: this folder cannot be listed")]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, r"did you mean data.root=.*/rot\? .* holds rot/; expected pictures"),
        (lambda root: root.mkdir(), r"holds nothing; did you mean data.root=.*/rot\? expected pictures"),
        (lambda root: (root / "class").mkdir(parents=True), "holds only the empty folder class/; did you mean"),
        (lambda root: root.write_text("x"), "is a file, not a folder; expected"),
    ],
)
def test_a_folder_that_cannot_be_used_gives_one_clear_line(tmp_path, make, message):
    put(tmp_path / "rot/class/one.jpg")
    make(tmp_path / "root")
    with pytest.raises(UserError, match=message) as caught:
        scan.scan(tmp_path / "root")
    assert "\n" not in str(caught.value)


def test_a_folder_beside_it_that_may_not_be_read_is_named_alone(tmp_path, monkeypatch):
    put(tmp_path / "closed/one.jpg")
    for name in ("scandir", "listdir"):
        real = getattr(os, name)

        def denied(path, real=real):
            if str(path).rstrip("/").endswith("closed"):
                raise PermissionError(13, "Permission denied", path)
            return real(path)

        monkeypatch.setattr(os, name, denied)
    with pytest.raises(UserError, match=r"data.root=.*/typo does not exist; .* holds closed/; expected pictures"):
        scan.check(tmp_path / "typo")


def test_a_hint_corrects_only_the_wrong_part_of_a_path(tmp_path):
    put(tmp_path / "archive/training_set/art/one.jpg")
    with pytest.raises(UserError, match=r"did you mean data.root=.*/archive/training_set\?"):
        scan.check(tmp_path / "Archiv/training_set")


# layout


def layout_of(root, *names):
    """→ {file: (class, split)}."""
    for name in names:
        put(root / name)
    files = scan.scan(root).files
    found = lay_out(root, files)
    assert len(found.files) + len(found.rejected) == len(files)
    return {
        file.path: (place.label, place.split) for file, place in zip(found.files, found.places, strict=True)
    } | dict(found.rejected)


def test_classes_are_the_first_folders(tmp_path):
    assert layout_of(tmp_path, "loose.jpg", "b/two.jpg", "a/deep/er/one.jpg") == {
        "loose.jpg": (None, None),
        "b/two.jpg": ("b", None),
        "a/deep/er/one.jpg": ("a", None),
    }


@pytest.mark.parametrize("names", [("one.jpg", "two.jpg"), ("only/one.jpg", "only/two.jpg")])
def test_flat_and_single_folders(tmp_path, names):
    label = "only" if "/" in names[0] else None
    assert set(layout_of(tmp_path, *names).values()) == {(label, None)}


def test_one_wrapping_folder_is_looked_through(tmp_path, caplog):
    found = layout_of(tmp_path, "wrapper/art/a/one.jpg", "wrapper/art/b/two.jpg", "wrapper/README.txt")
    assert found["wrapper/art/a/one.jpg"] == ("a", None)
    assert found["wrapper/art/b/two.jpg"] == ("b", None)
    assert f"reading it as data.root={tmp_path}/wrapper/art (wrapper/art/a 1, wrapper/art/b 1)" in caplog.text


@pytest.mark.parametrize(
    ("train", "validation"), [("train", "val"), ("training_set", "validation_set"), ("Train", "test")]
)
def test_folders_may_name_the_split(tmp_path, train, validation):
    assert layout_of(tmp_path, f"{train}/a/x/one.jpg", f"{validation}/b/two.jpg", f"{train}/three.jpg") == {
        f"{train}/a/x/one.jpg": ("a", "train"),
        f"{validation}/b/two.jpg": ("b", "validation"),
        f"{train}/three.jpg": (None, "train"),
    }


def test_a_test_folder_beside_a_validation_folder_is_neither(tmp_path, caplog):
    found = layout_of(tmp_path, "train/a/1.jpg", "valid/a/2.jpg", "test/a/3.jpg", "notes/4.jpg")
    assert [split for _, split in list(found.values())[:3]] == ["test", "train", "validation"]
    assert found["notes/4.jpg"] == "lies beside the folders of the split, not in them"
    assert "set aside, since they lie beside the folders of the split" in caplog.text


def test_a_doubled_archive_is_two_splits(tmp_path):
    tops = ("dataset/dataset_updated", "musemart/dataset_updated")
    names = [
        f"{top}/{side}/{label}/1.jpg" for top in tops for side in ("training_set", "validation_set") for label in "ab"
    ]
    found = layout_of(tmp_path, *names)
    assert found["musemart/dataset_updated/validation_set/b/1.jpg"] == ("b", "validation")
    assert found["dataset/dataset_updated/training_set/a/1.jpg"] == ("a", "train")


@pytest.mark.parametrize("others", [("boat", "car"), ("boat", "test")])
def test_a_class_called_train_is_a_class(tmp_path, others):
    found = layout_of(tmp_path, *(f"{name}/{name}.jpg" for name in (*others, "train")))
    assert set(found.values()) == {(name, None) for name in (*others, "train")}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train2017", "val2017", "test2017"), (None, "train", None, "validation", None, "test")),
        (("DIV2K_train_HR", "DIV2K_valid_HR"), (None, "train", None, "validation")),
        (("trainA", "trainB", "testA"), ("A", "train", "B", "train", "A", "validation")),
        (("train (1)", "val"), (None, "train", None, "validation")),
        (("train", "train (1)", "Test Set 2"), (None, "train", None, "train", None, "validation")),
        (("Training Set", "Validation Set"), (None, "train", None, "validation")),
        (("01_TRAINING", "02-testing-images"), (None, "train", None, "validation")),
        (("images_train", "ImagesVal"), (None, "train", None, "validation")),
        (("seg_train/seg_train/sea", "seg_test/seg_test/sea"), ("sea", "train", "sea", "validation")),
        (("train/images", "valid/images"), (None, "train", None, "validation")),
        (("train/images/sea", "valid/images/sea"), ("sea", "train", "sea", "validation")),
        (("images/train", "images/val"), (None, "train", None, "validation")),
        (("trainval/a", "test/a"), ("a", "train", "a", "validation")),
        (("train/train/x", "train/bus/x", "val/bus/x"), ("train", "train", "bus", "train", "bus", "validation")),
    ],
)
def test_split_folders_may_have_other_words_in_common(tmp_path, caplog, names, expected):
    found = layout_of(tmp_path, *(f"{name}/1.jpg" for name in names))
    assert [found[f"{name}/1.jpg"] for name in names] == list(zip(expected[::2], expected[1::2], strict=True))
    assert not caplog.text


def test_a_folder_without_a_side_lies_beside_the_split(tmp_path):
    """As in Intel's pictures of landscapes."""
    names = [f"{side}/{side}/{label}/1.jpg" for side in ("seg_train", "seg_test") for label in ("sea", "street")]
    found = layout_of(tmp_path, *names, "seg_pred/seg_pred/1.jpg")
    assert found["seg_test/seg_test/sea/1.jpg"] == ("sea", "validation")
    assert found["seg_pred/seg_pred/1.jpg"] == "lies beside the folders of the split, not in them"


def test_labels_of_detectors_are_no_classes(tmp_path):
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "labels/train/1.txt").write_text("0 .5 .5 1 1")
    found = layout_of(tmp_path, "images/train/1.jpg", "images/train/2.jpg")
    assert found["images/train/1.jpg"] == (None, None)
    (tmp_path / "labels/val").mkdir()
    (tmp_path / "labels/val/3.txt").write_text("0 .5 .5 1 1")
    found = layout_of(tmp_path, "images/val/3.jpg")
    assert found["images/train/1.jpg"] == (None, "train")
    assert found["images/val/3.jpg"] == (None, "validation")


@pytest.mark.parametrize(
    "names",
    [
        ("train_x", "test_y"),
        ("train", "train (1)"),
        ("boat", "train", "test"),
        ("train-val", "test"),
        ("a/train1", "a/eval_x"),
    ],
)
def test_what_only_looks_like_a_split_is_told(tmp_path, caplog, names):
    found = layout_of(tmp_path, *(f"{name}/1.jpg" for name in names))
    assert {split for _, split in found.values()} == {None}
    told = ", ".join(sorted(name for name in names if name != "boat"))
    assert (
        f"these look like a split but are read as ordinary folders: {told}; for a split, expected names" in caplog.text
    )


@pytest.mark.parametrize("names", [("steam train", "toy_train"), ("train", "boat"), ("training", "vale", "tested")])
def test_what_does_not_look_like_a_split_is_not_told(tmp_path, caplog, names):
    found = layout_of(tmp_path, *(f"{name}/1.jpg" for name in names))
    assert set(found.values()) == {(name, None) for name in names}
    assert not caplog.text


def test_a_split_needs_no_extensions(tmp_path):
    found = layout_of(tmp_path, "train/1.jpg", "val/two")
    assert found == {"train/1.jpg": (None, "train"), "val/two": (None, "validation")}


def test_accents_may_be_written_in_two_ways(tmp_path):
    composed, apart = "caf\xe9", "cafe\u0301"
    found = layout_of(tmp_path, f"train/{composed}/1.jpg", f"val/{apart}/2.jpg")
    assert {label for label, _ in found.values()} == {composed}
    (tmp_path / "metadata.csv").write_text(f"file_name,label\nval/{composed}/2.jpg,oil\n")
    places, _ = metadata_of(tmp_path)
    assert places[f"val/{apart}/2.jpg"].label == "oil"


def test_a_folder_with_nothing_but_metadata(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name\n1.jpg\n")
    assert metadata_of(tmp_path) == ({}, [("metadata.csv", "metadata of the pictures")])


def metadata_of(root):
    found = lay_out(root, scan.scan(root).files)
    return {file.path: place for file, place in zip(found.files, found.places, strict=True)}, found.rejected


def test_metadata_csv_gives_labels_and_columns(tmp_path, caplog):
    for name in ("images/1.jpg", "images/2.jpg", "images/3.jpg"):
        put(tmp_path / name)
    (tmp_path / "metadata.csv").write_text(
        'file_name,label,license,text\nimages/1.jpg,ink,cc0-1.0,"a horse,\nrunning"\n'
        "images/2.jpg,oil,,\nlost.jpg,x,,\n",
        encoding="utf-8-sig",
    )
    places, rejected = metadata_of(tmp_path)
    assert [place.label for place in places.values()] == ["ink", "oil", None]
    assert places["images/1.jpg"].columns == {"license": "cc0-1.0", "text": "a horse,\nrunning"}
    assert rejected == [("metadata.csv", "metadata of the pictures")]
    assert "describes 1 files that are not there" in caplog.text
    assert "gives no label to: images 1" in caplog.text


def test_metadata_paths_are_normalised(tmp_path, caplog):
    for name in ("a/1.jpg", "a/2.jpg"):
        put(tmp_path / name)
    lines = [
        {"file_name": ".\\a\\1.jpg", "title": "cut \ud83d"},
        {"file_name": "x/../a/2.jpg"},
        {"file_name": "a/2.jpg"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    places, _ = metadata_of(tmp_path)
    assert places["a/1.jpg"].columns == {"title": "cut ?"}
    assert "describes 1 files twice" in caplog.text


def test_metadata_without_labels_keeps_those_of_the_folders(tmp_path):
    for name in ("train/ink/1.jpg", "val/oil/2.jpg"):
        put(tmp_path / name)
    row = {"file_name": "ink/1.jpg", "source": "a book", "year": 1880, "title": None}
    (tmp_path / "train/metadata.jsonl").write_text(json.dumps(row) + "\n\n")
    places, _ = metadata_of(tmp_path)
    assert places["train/ink/1.jpg"] == ("ink", "train", {"source": "a book", "year": "1880", "title": ""}, ("ink",))
    assert places["val/oil/2.jpg"] == ("oil", "validation", {}, ("oil",))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "metadata.csv",
            "name,label\n1.jpg,a\n",
            r"has the columns \['name', 'label'\], expected file_name among them",
        ),
        ("metadata.csv", "file_name,label\n,a\n", "metadata.csv, line 2: no file_name"),
        ("metadata.csv", "file_name,title\n1.jpg,a, b\n", "line 2: more than the 2 fields of the heading"),
        ("metadata.csv", b"file_name\n\xff.jpg\n", "cannot be read as CSV"),
        ("metadata.jsonl", '{"file_name": "1.jpg"\n', "cannot be read as JSONL"),
        ("metadata.jsonl", '["1.jpg"]\n', r"line 1: expected an object, got \[\"1.jpg\"\]"),
    ],
)
def test_metadata_that_cannot_be_read_gives_one_clear_line(tmp_path, name, text, message):
    put(tmp_path / "1.jpg")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        metadata_of(tmp_path)
    assert "\n" not in str(caught.value)
