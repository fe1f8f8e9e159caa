"""What artdiff writes in a list it can read again, whatever a file is called."""

import csv
import hashlib
import io
import subprocess

import pytest
from test_index import excluded, index_of, put

from artdiff.ingest import tables

NAMES = [
    *('Portrait of "Mona".jpg', '"Mona"', '"Mona', 'Mona"', '""', '"', '"a"\t"b"', '"a\tb', "a\tb.jpg", "\t", '"\n"'),
    *(
        "two\nlines.jpg",
        '"two\nlines',
        "\n",
        "end\n",
        "a\r\nb",
        "a\rb.jpg",
        "end\r",
        "\r",
        "\x85",
        "a\u2028b",
        "a\x0bb\x0cc",
    ),
    *(
        " first",
        "last ",
        " ",
        "# not a comment.jpg",
        "#",
        "back\\slash.jpg",
        "\\n",
        "\\",
        "a\x1cb\x1db\x1ec",
        "caf\udce9.jpg",
    ),
    *(
        "\udce9",
        "\ufeffbom",
        "e\u0301.jpg",
        "\u00e9",
        "🖼.jpg",
        "\x00",
        "\x7f",
        "file",
        "None",
        "-",
        "=1+1",
        "'quoted'",
        "a,b;c",
    ),
]
"""Hostile names of files."""


def test_every_name_comes_back(tmp_path):
    lines = [[name, "", other] for name, other in zip(NAMES, reversed(NAMES), strict=True)]
    tables.write(tmp_path / "list.tsv", tables.table(("file", "reason", "b"), lines))
    text = tables.decoded((tmp_path / "list.tsv").read_bytes())
    assert list(tables.rows(text)) == [["file", "reason", "b"], *lines]
    ordinary = [[cell for cell in line if "\r" not in cell] for line in lines]
    assert list(tables.rows(tables.table(("a", "b"), ordinary).replace("\n", "\r\n")))[5] == ordinary[4]


def test_tables_are_those_of_the_csv_module():
    lines = [(name, None, 7, 1.5, "a b") for name in NAMES if "\r" not in name]
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows([("file", "b", "c", "d", "e"), *lines])
    assert tables.table(("file", "b", "c", "d", "e"), lines) == text.getvalue()


def test_no_name_is_beyond_writing():
    assert tables.encoded("a\ud800\udce9\udfff\u00e9") == b"a\\ud800\xe9\\udfff\xc3\xa9"
    assert tables.shown("a\ud800\udce9\n") == "a\\ud800\\xe9\\n"


FILES = [f"art/{name}" for name in NAMES if name not in ("\0", "file")]


@pytest.fixture
def root(tmp_path):
    """A file of every hostile name, and one with an ordinary name."""
    for seed, name in enumerate([*FILES, "art/kept.jpg"]):
        put(tmp_path / "root" / name, seed)
    return tmp_path / "root"


def test_a_list_of_artdiffs_own_leaves_out_what_it_names(root, tmp_path):
    index = index_of(root, tmp_path)
    assert {one.path for one in index.used} == {*FILES, "art/kept.jpg"}
    tables.write(tmp_path / "manifest.tsv", index.manifest())
    heading, *rows = tables.rows(tables.decoded((tmp_path / "manifest.tsv").read_bytes()))
    without = tables.table(heading, [row for row in rows if row[0] != "art/kept.jpg"])
    for text in (without, without.replace("\n", "\r\n") if "\r" not in without else without):
        left_out, index = excluded(root, tmp_path, text)
        assert left_out == set(FILES)
        assert [one.path for one in index.used] == ["art/kept.jpg"]
    tables.write(tmp_path / "set_aside.tsv", index.rejections())
    assert excluded(root, tmp_path, tables.decoded((tmp_path / "set_aside.tsv").read_bytes()))[0] == set(FILES)


@pytest.mark.parametrize("name", ['art/Portrait of "Mona".jpg', "art/caf\udce9.jpg", "art/a\x85b.jpg", "art/ a.jpg"])
def test_a_line_or_a_column_of_a_manifest_is_enough(tmp_path, name):
    for seed, one in enumerate((name, "art/b.jpg", "art/c.jpg")):
        put(tmp_path / "root" / one, seed)
    line = next(line for line in index_of(tmp_path / "root", tmp_path).manifest().split("\n") if name[4:6] in line)
    for text in (
        line,
        line.split("\t")[0],
        line.split("\t")[1],
        name,
        f"{name}\r",
        f"./{name}",
        f"{tmp_path}/root/{name}",
    ):
        assert excluded(tmp_path / "root", tmp_path, "# a comment", text)[0] == {name}, text


def test_what_other_programs_print_is_understood(root, tmp_path):
    names = [name.encode(errors="surrogateescape") for name in FILES]
    sums = subprocess.run(["sha256sum", *names], cwd=root, capture_output=True, check=True).stdout
    assert b"\n\\" in sums
    assert excluded(root, tmp_path, sums.decode(errors="surrogateescape"))[0] == set(FILES)
    digest = hashlib.sha256((root / FILES[0]).read_bytes()).hexdigest()
    assert excluded(root, tmp_path, f"SHA256 ({FILES[0]}) = {digest}")[0] == {FILES[0]}
    assert excluded(root, tmp_path, "\0".join(FILES) + "\0")[0] == set(FILES)
    plain = [name for name in FILES if "\n" not in name and name.strip() == name]
    assert excluded(root, tmp_path, *plain)[0] == set(plain)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_from_windows_are_understood(tmp_path, encoding):
    for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg"):
        put(tmp_path / "root" / name)
    (tmp_path / "list.txt").write_bytes("a\\1.jpg\r\nb/3.jpg\r\n".encode(encoding))
    index = index_of(tmp_path / "root", tmp_path, exclude=tmp_path / "list.txt")
    assert [one.path for one in index.used] == ["a/2.jpg"]


def test_a_heading_is_no_entry(tmp_path, caplog):
    put(tmp_path / "root/a.jpg")
    put(tmp_path / "root/b.jpg")
    assert excluded(tmp_path / "root", tmp_path, "file\tsha256", "a.jpg\tx")[0] == {"a.jpg"}
    assert "match no file" not in caplog.text
    excluded(tmp_path / "root", tmp_path, "file\tsha256", " a.jpg\tx", '"odd')
    assert "2 entries of data.exclude" in caplog.text
