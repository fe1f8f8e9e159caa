"""Decoded once, never stale, and right whatever happens while it is built."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import put
from filelock import FileLock

from artdiff import UserError, cache
from artdiff.ingest import decoded, hashing, pool
from artdiff.ingest.decode import Transform, decode
from artdiff.ingest.pool import Limits
from artdiff.ingest.scan import scan

WHITE = (255, 255, 255)
TRANSFORM = Transform(16, "squash", WHITE)
LIMITS = Limits(20, 2)


def read(root, folder, transform=TRANSFORM, keep_pixels=True, limits=LIMITS):
    """→ what became of each file's content, and its pixels; by path."""
    files = scan(root).files
    hashes, reasons = hashing.hashes(root, files, folder)
    contents = {hashes[file.path]: file for file in files if file.path in hashes}
    found = decoded.decoded(root, contents, transform, limits, folder, keep_pixels=keep_pixels)
    rows = {digest: row for row, digest in enumerate(found.outcomes)}
    outcomes = {path: found.outcomes[digest] for path, digest in hashes.items()}
    pixels = {path: None if found.pixels is None else found.pixels[rows[digest]] for path, digest in hashes.items()}
    return outcomes, pixels, reasons


def is_right(root, pixels, transform=TRANSFORM):
    return all(np.array_equal(row, decode((root / path).read_bytes(), transform)[0]) for path, row in pixels.items())


@pytest.fixture
def root(tmp_path):
    for index in range(6):
        path = put(tmp_path / f"root/{index}.jpg")
        os.utime(path, (1, 1))
    return tmp_path / "root"


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once."""
    monkeypatch.setattr(hashing, "SETTLED", -1e6)


@pytest.fixture
def decodes(monkeypatch):
    """The paths that are decoded, as they are."""
    paths = []
    run = pool.run

    def counted(jobs, *args, **kwargs):
        jobs = list(jobs)
        paths.extend(Path(job.path).name for job in jobs)
        return run(jobs, *args, **kwargs)

    monkeypatch.setattr(pool, "run", counted)
    return paths


@pytest.fixture
def reads(monkeypatch):
    """The files whose bytes are read to hash them."""
    paths = []
    digest = hashing.hashlib.file_digest

    def counted(stream, name):
        paths.append(Path(stream.name).name)
        return digest(stream, name)

    monkeypatch.setattr(hashing.hashlib, "file_digest", counted)
    return paths


def test_rows_are_the_decoded_pictures(root, tmp_path):
    outcomes, pixels, _ = read(root, tmp_path)
    assert is_right(root, pixels)
    assert all(outcome.facts is not None for outcome in outcomes.values())


def test_a_second_start_neither_reads_nor_decodes(root, tmp_path, decodes, reads, settled):
    first = read(root, tmp_path)
    assert (len(decodes), len(reads)) == (6, 6)
    second = read(root, tmp_path)
    assert (len(decodes), len(reads)) == (6, 6)
    assert first[0] == second[0]
    assert all(np.array_equal(first[1][path], second[1][path]) for path in first[1])


def test_a_file_that_has_just_been_written_is_read_again(root, tmp_path, reads):
    put(root / "0.jpg", 99)
    read(root, tmp_path)
    read(root, tmp_path)
    assert reads.count("0.jpg") == 2  # the next write could fall into the same tick of the clock


def test_only_what_is_new_is_decoded(root, tmp_path, decodes):
    (root / "page.jpg").write_text("<html>")
    read(root, tmp_path)
    put(root / "new.jpg")
    (root / "1.jpg").unlink()
    shutil.copy(root / "2.jpg", root / "copy of 2.jpg")
    (root / "3.jpg").rename(root / "renamed.jpg")
    outcomes, pixels, _ = read(root, tmp_path)
    assert decodes[7:] == ["new.jpg"]
    assert outcomes["page.jpg"].reason == "not a picture (HTML)"
    del pixels["page.jpg"]
    assert is_right(root, pixels)


def test_a_changed_file_is_decoded_anew_even_if_size_and_time_are_kept(root, tmp_path, settled):
    read(root, tmp_path)
    before = (root / "0.jpg").stat()
    changed = bytearray((root / "0.jpg").read_bytes())
    other = put(tmp_path / "other.jpg").read_bytes()
    changed[:] = (other + bytes(len(changed)))[: len(changed)]
    (root / "0.jpg").write_bytes(changed)
    os.utime(root / "0.jpg", ns=(before.st_atime_ns, before.st_mtime_ns))
    outcomes, pixels, _ = read(root, tmp_path)
    assert outcomes["0.jpg"].facts is None or is_right(root, pixels)
    assert not np.array_equal(pixels["0.jpg"], read(root, tmp_path / "fresh")[1]["1.jpg"])


@pytest.mark.parametrize(
    "other", [Transform(24, "squash", WHITE), Transform(16, "crop", WHITE), Transform(16, "pad", (0, 0, 0))]
)
def test_another_transform_is_another_map(root, tmp_path, other):
    read(root, tmp_path)
    assert is_right(root, read(root, tmp_path, other)[1], other)
    assert is_right(root, read(root, tmp_path)[1])


def test_outcomes_without_pixels(root, tmp_path, decodes):
    (root / "page.jpg").write_text("<html>")
    outcomes, pixels, _ = read(root, tmp_path, keep_pixels=False)
    assert outcomes["page.jpg"].reason == "not a picture (HTML)"
    assert set(pixels.values()) == {None}
    assert not list(tmp_path.glob("decoded/*.npy"))
    assert read(root, tmp_path, keep_pixels=False)[0] == outcomes
    assert len(decodes) == 7
    del (pixels := read(root, tmp_path)[1])["page.jpg"]
    assert is_right(root, pixels)


def test_a_row_that_failed_for_now_is_tried_again_whatever_was_done_between(root, tmp_path, monkeypatch):
    hashes = hashing.hashes

    def touched_after(root, files, folder):
        found = hashes(root, files, folder)
        os.utime(root / "0.jpg", (2, 2))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(hashing, "hashes", touched_after)
        assert read(root, tmp_path)[0]["0.jpg"].reason == "cannot be read: it changed meanwhile"
    read(root, tmp_path, keep_pixels=False)
    outcomes, pixels, _ = read(root, tmp_path)
    assert outcomes["0.jpg"].facts is not None
    assert is_right(root, pixels)


def test_a_file_from_the_future_is_read_once(root, tmp_path, reads, monkeypatch):
    os.utime(root / "0.jpg", (4e9, 4e9))
    monkeypatch.setattr(hashing, "SETTLED", 0.01)
    time.sleep(0.05)
    read(root, tmp_path)
    read(root, tmp_path)
    assert reads.count("0.jpg") == 1


def test_a_cache_of_somebody_elses_can_be_used(root, tmp_path, monkeypatch):
    read(root, tmp_path)

    def denied(path):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(cache.os, "utime", denied)
    assert is_right(root, read(root, tmp_path)[1])


def test_what_could_not_be_read_is_tried_again(root, tmp_path, monkeypatch):
    content = (root / "0.jpg").read_bytes()
    (root / "0.jpg").unlink()
    (root / "0.jpg").mkdir()
    file = scan(put(root / "0.jpg/x.jpg").parent).files[0]._replace(path="0.jpg")
    hashes, reasons = hashing.hashes(root, [file], tmp_path)
    assert (hashes, reasons) == ({}, {"0.jpg": "cannot be read: Is a directory"})
    shutil.rmtree(root / "0.jpg")
    (root / "0.jpg").write_bytes(content)
    assert read(root, tmp_path)[2] == {}


def test_what_may_not_be_read_is_said(root, tmp_path, monkeypatch):
    opened = Path.open

    def denied(path, *args, **kwargs):
        if path.name == "3.jpg":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", denied)
    outcomes, _, reasons = read(root, tmp_path)
    assert reasons == {"3.jpg": "permission denied"}
    assert len(outcomes) == 5


def test_long_work_says_how_far_it_is_without_a_terminal(root, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cache, "SECONDS_A_LINE", -1.0)
    with caplog.at_level("INFO"):
        read(root, tmp_path)
    assert "reading: 6 of 6 files" in caplog.text
    assert "decoding: 3 of 6 files" in caplog.text


def test_a_file_too_large_to_be_a_picture_is_not_read(root, tmp_path, reads):
    with (root / "film.mov").open("wb") as stream:
        stream.truncate(3 * 2**30)
    assert read(root, tmp_path)[2] == {"film.mov": "too large: a file of 3.0 GiB"}
    assert "film.mov" not in reads


def test_a_full_disk_is_said_before_decoding(root, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(UserError, match=r"set data.cache_dir to a folder on a larger disk, or data.cache=false"):
        read(root, tmp_path)


@pytest.mark.parametrize("damage", ["cut", "gone", "unlisted"])
def test_a_damaged_map_is_built_again(root, tmp_path, damage):
    read(root, tmp_path)
    (pixels,), (listing,) = tmp_path.glob("decoded/*.npy"), tmp_path.glob("decoded/*.json")
    if damage == "cut":
        os.truncate(pixels, 1000)
    elif damage == "gone":
        pixels.unlink()
    else:
        listing.write_text(listing.read_text()[:50])
    assert is_right(root, read(root, tmp_path)[1])


@pytest.mark.parametrize("grown", [False, True])
def test_a_build_that_was_interrupted_is_carried_on(root, tmp_path, decodes, monkeypatch, grown):
    add = decoded._Journal.add

    def killed_after_three(self, row, digest, outcome):
        if len(self.outcomes) == 3:
            raise KeyboardInterrupt
        add(self, row, digest, outcome)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(decoded._Journal, "add", killed_after_three)
        read(root, tmp_path)
    (partial,), (journal,) = tmp_path.glob("decoded/*.partial"), tmp_path.glob("decoded/*.journal")
    first_row = json.loads(journal.read_text().split("\n")[1])[0]
    with partial.open("r+b") as stream:  # a row that did not reach the disk
        stream.seek(128 + first_row * 768)
        stream.write(bytes(768))
    with journal.open("a") as stream:
        stream.write("[5, 12")  # a line that was being written
    decodes.clear()
    if grown:
        put(root / "new.jpg")
    assert is_right(root, read(root, tmp_path)[1])
    assert len(decodes) == 4 + grown
    assert len(list(tmp_path.glob("decoded/*.journal"))) == grown  # that of the folder as it was


BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_cache import read
read(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def _building(root, folder):
    code = BUILD.format(tests=str(Path(__file__).parent))
    return subprocess.Popen([sys.executable, "-c", code, root, folder], stderr=subprocess.DEVNULL)


def test_a_build_that_is_killed_leaves_right_pixels(tmp_path, decodes):
    root = tmp_path / "root"
    for index in range(300):
        put(root / f"{index}.jpg")
    building = _building(root, tmp_path)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 500 for path in tmp_path.glob("decoded/*.journal")):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    building.send_signal(signal.SIGKILL)
    assert building.wait() == -signal.SIGKILL
    assert is_right(root, read(root, tmp_path)[1])
    assert 0 < len(decodes) < 300


def test_two_programs_at_once_build_one_map(tmp_path):
    root = tmp_path / "root"
    for index in range(60):
        put(root / f"{index}.jpg")
    both = [_building(root, tmp_path) for _ in range(2)]
    assert [building.wait(timeout=120) for building in both] == [0, 0]
    assert is_right(root, read(root, tmp_path)[1])
    assert len(list(tmp_path.glob("decoded/*.npy"))) == 1


def test_pruning_removes_what_is_unused_and_nothing_else(root, tmp_path):
    folder = tmp_path / "cache"
    read(root, folder)
    read(root, folder, Transform(24, "squash", WHITE))
    own = folder / "decoded/my notes.txt"
    own.write_text("mine")
    (folder / "sample_art").mkdir()
    kept = cache.kept(folder)
    assert sum("6 files of" in one.what for one in kept) == 2
    assert all(cache.remove(one) for one in kept)
    assert cache.kept(folder) == []
    assert own.exists()
    assert (folder / "sample_art").exists()
    assert is_right(root, read(root, folder)[1])


def test_what_is_being_built_is_not_removed(root, tmp_path):
    read(root, tmp_path)
    one = next(one for one in cache.kept(tmp_path) if "6 files" in one.what)
    with FileLock(one.paths[0].with_suffix(".lock")):
        assert not cache.remove(one)
    assert all(path.exists() for path in one.paths)
