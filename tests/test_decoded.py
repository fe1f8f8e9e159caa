"""Every content is decoded once, is never stale, and is right whatever happens while it is decoded."""

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from conftest import picture, put
from filelock import FileLock

from artdiff import UserError, cache
from artdiff.ingest import decoded, hashing, pool
from artdiff.ingest.decode import Transform, Unreadable, decode
from artdiff.ingest.source import Folder
from artdiff.prune import prune
from artdiff.settings.data import Limits, PruneSettings
from artdiff.store import RowStore

WHITE = (255, 255, 255)
TRANSFORM = Transform(16, "squash", WHITE)
LIMITS = Limits(seconds=20, gigabytes=2)


def read(root, folder, transform=TRANSFORM, keep_pixels=True, limits=LIMITS):
    """What became of each file, its pixels, and why files cannot be read; by path."""
    records, _ = Folder(root).records()
    hashes, reasons = hashing.hashes(root, records, folder)
    contents = {hashes[record.path]: record for record in records if record.path in hashes}
    found = decoded.decoded(root, contents, transform, limits, folder, keep_pixels=keep_pixels)
    outcomes = {path: found.outcomes[digest] for path, digest in hashes.items()}
    if found.pixels is None:
        return outcomes, dict.fromkeys(hashes), reasons
    rows = {path: found.rows[digest] for path, digest in hashes.items()}
    return outcomes, {path: found.pixels[row] for path, row in rows.items() if row >= 0}, reasons


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
    """Files that have just been written are remembered at once."""
    monkeypatch.setattr(hashing, "SETTLED", -1e6)


@pytest.fixture
def decodes(monkeypatch):
    """The names of the files that are decoded, in order."""
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
    """The names of the files that are hashed, in order."""
    paths = []
    digest = hashlib.file_digest

    def counted(stream, name):
        paths.append(Path(stream.name).name)
        return digest(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
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
    assert is_right(root, pixels)


def test_a_changed_file_is_decoded_again_even_if_its_size_and_time_are_kept(root, tmp_path, settled):
    read(root, tmp_path)
    before = (root / "0.jpg").stat()
    picture(99).save(tmp_path / "other.jpg", quality=30)
    (root / "0.jpg").write_bytes((tmp_path / "other.jpg").read_bytes().ljust(before.st_size, b"\0"))
    assert (root / "0.jpg").stat().st_size == before.st_size
    os.utime(root / "0.jpg", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert is_right(root, read(root, tmp_path)[1])


@pytest.mark.parametrize(
    "other", [Transform(24, "squash", WHITE), Transform(16, "crop", WHITE), Transform(16, "pad", (0, 0, 0))]
)
def test_another_transform_has_rows_of_its_own(root, tmp_path, other):
    read(root, tmp_path)
    assert is_right(root, read(root, tmp_path, other)[1], other)
    assert is_right(root, read(root, tmp_path)[1])


def test_outcomes_without_pixels(root, tmp_path, decodes):
    (root / "page.jpg").write_text("<html>")
    outcomes, pixels, _ = read(root, tmp_path, keep_pixels=False)
    assert outcomes["page.jpg"].reason == "not a picture (HTML)"
    assert set(pixels.values()) == {None}
    assert all(path.stat().st_size == 0 for path in tmp_path.glob("decoded/*.rows"))
    assert read(root, tmp_path, keep_pixels=False)[0] == outcomes
    assert len(decodes) == 7
    pixels = read(root, tmp_path)[1]
    assert len(pixels) == 6
    assert is_right(root, pixels)


def test_a_file_that_failed_for_now_is_tried_again_whatever_happens_between(root, tmp_path, monkeypatch):
    hashes = hashing.hashes

    def touched_after(root, records, folder):
        found = hashes(root, records, folder)
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


def test_a_cache_that_belongs_to_somebody_else_can_be_used(root, tmp_path, monkeypatch):
    read(root, tmp_path)

    def denied(path):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(cache.os, "utime", denied)
    assert is_right(root, read(root, tmp_path)[1])


def test_a_file_that_could_not_be_read_is_tried_again(root, tmp_path):
    content = (root / "0.jpg").read_bytes()
    (root / "0.jpg").unlink()
    (root / "0.jpg").mkdir()
    put(root / "0.jpg/x.jpg")
    record = Folder(root / "0.jpg").records()[0][0]._replace(path="0.jpg")
    hashes, reasons = hashing.hashes(root, [record], tmp_path)
    assert (hashes, reasons) == ({}, {"0.jpg": "cannot be read: Is a directory"})
    shutil.rmtree(root / "0.jpg")
    (root / "0.jpg").write_bytes(content)
    assert read(root, tmp_path)[2] == {}


def test_a_file_without_permission_is_rejected(root, tmp_path, monkeypatch):
    opened = Path.open

    def denied(path, *args, **kwargs):
        if path.name == "3.jpg":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", denied)
    outcomes, _, reasons = read(root, tmp_path)
    assert reasons == {"3.jpg": "permission denied"}
    assert len(outcomes) == 5


def test_long_work_shows_its_progress(root, tmp_path, monkeypatch):
    shown = []

    def spy(items, total, name):
        for count, item in enumerate(items, 1):
            yield item
            shown.append((name, count, total))

    for module in (decoded, hashing):
        monkeypatch.setattr(module, "progress", spy)
    read(root, tmp_path)
    assert [(name, count, 6) for name in ("reading", "decoding") for count in range(1, 7)] == shown


def test_a_file_too_large_to_be_a_picture_is_not_read(root, tmp_path, reads):
    with (root / "film.mov").open("wb") as stream:
        stream.truncate(3 * 2**30)
    assert read(root, tmp_path)[2] == {"film.mov": "too large: a file of 3.0 GiB"}
    assert "film.mov" not in reads


def test_a_full_disk_is_reported_before_decoding(root, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(UserError, match=r"set data.cache_dir to a folder on a larger disk, or data.cache=false"):
        read(root, tmp_path)


def test_rows_that_are_free_need_no_room(root, tmp_path, monkeypatch):
    read(root, tmp_path)
    store = RowStore(next(tmp_path.glob("decoded/*.rows")), 768)
    store._drop([key for key, row in store._row_of.items() if row < 3])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    assert is_right(root, read(root, tmp_path)[1])


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "gone", "no keys", "no outcomes", "half of the outcomes"])
def test_a_damaged_cache_is_repaired(root, tmp_path, damage, decodes):
    read(root, tmp_path)
    (rows,), (keys,), (ledger,) = (tmp_path.glob(f"decoded/*.{suffix}") for suffix in ("rows", "keys", "jsonl"))
    if damage == "cut":
        os.truncate(rows, 1000)
    elif damage == "half of the outcomes":
        ledger.write_text(ledger.read_text()[: ledger.stat().st_size // 2])
    else:
        {"gone": rows, "no keys": keys, "no outcomes": ledger}[damage].unlink()
    again = {"cut": 5, "half of the outcomes": 4}.get(damage, 6)
    assert is_right(root, read(root, tmp_path)[1])
    assert len(decodes) == 6 + again
    assert is_right(root, read(root, tmp_path)[1])
    assert len(decodes) == 6 + again


def test_a_row_never_moves_while_it_may_be_read(root, tmp_path):
    _, pixels, _ = read(root, tmp_path)
    before = {path: row.copy() for path, row in pixels.items()}
    next(tmp_path.glob("decoded/*.jsonl")).unlink()
    for index in range(6):
        put(root / f"new {index}.jpg")
    read(root, tmp_path)
    assert all(np.array_equal(pixels[path], row) for path, row in before.items())


def test_one_new_file_costs_one_row(root, tmp_path):
    read(root, tmp_path)
    (rows,) = tmp_path.glob("decoded/*.rows")
    before = rows.stat()
    put(root / "new.jpg")
    (root / "0.jpg").unlink()
    assert is_right(root, read(root, tmp_path)[1])
    assert rows.stat().st_size == before.st_size + 768
    assert rows.stat().st_ino == before.st_ino


def test_folders_that_are_decoded_in_the_same_way_share_their_rows(root, tmp_path, decodes):
    read(root, tmp_path)
    shutil.copytree(root, tmp_path / "other")
    put(tmp_path / "other/new.jpg")
    assert is_right(tmp_path / "other", read(tmp_path / "other", tmp_path)[1])
    assert decodes[6:] == ["new.jpg"]


def test_a_file_that_was_too_costly_is_tried_again_under_other_limits(root, tmp_path, decodes, monkeypatch):
    run = pool.run

    def costly(jobs, transform, limits, **kwargs):
        for job, outcome in run(jobs, transform, limits, **kwargs):
            slow = Path(job.path).name == "0.jpg" and limits.seconds < 30
            yield job, pool.Outcome(None, "took longer than 20 s to decode") if slow else outcome

    monkeypatch.setattr(pool, "run", costly)
    assert read(root, tmp_path)[0]["0.jpg"].facts is None
    assert read(root, tmp_path)[0]["0.jpg"].facts is None
    assert len(decodes) == 6
    _, pixels, _ = read(root, tmp_path, limits=Limits(seconds=60, gigabytes=2))
    assert (decodes[6:], len(pixels)) == (["0.jpg"], 6)
    assert is_right(root, pixels)


@pytest.mark.parametrize("grown", [False, True])
def test_a_build_that_was_interrupted_is_resumed(root, tmp_path, decodes, monkeypatch, grown):
    record, done = decoded.RowStore.record, []

    def killed_after_three(self, key, row, crc):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(row)
        record(self, key, row, crc)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(decoded.RowStore, "record", killed_after_three)
        read(root, tmp_path)
    (rows,), (ledger,) = tmp_path.glob("decoded/*.rows"), tmp_path.glob("decoded/*.jsonl")
    with rows.open("r+b") as stream:  # a row that did not reach the disk
        stream.seek(done[0] * 768)
        stream.write(bytes(768))
    with ledger.open("a") as stream:
        stream.write('["abc", [5')  # a line that was being written
    decodes.clear()
    if grown:
        put(root / "new.jpg")
    assert is_right(root, read(root, tmp_path)[1])
    assert len(decodes) == 4 + grown
    read(root, tmp_path)
    assert len(decodes) == 4 + grown


BUILD = """
import sys
from pathlib import Path
from artdiff.ingest import decoded, hashing
from artdiff.ingest.decode import Transform
from artdiff.ingest.source import Folder
from artdiff.settings.data import Limits
root, folder = map(Path, sys.argv[1:])
records, _ = Folder(root).records()
hashes, _ = hashing.hashes(root, records, folder)
contents = {hashes[record.path]: record for record in records}
limits = Limits(seconds=20, gigabytes=2)
decoded.decoded(root, contents, Transform(16, "squash", (255, 255, 255)), limits, folder, keep_pixels=True)
"""


def _building(root, folder):
    return subprocess.Popen([sys.executable, "-c", BUILD, root, folder], stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    for index in range(80):
        put(root / f"{index}.jpg")
    return root


def test_a_build_that_is_killed_leaves_right_pixels(many, tmp_path, decodes):
    building = _building(many, tmp_path)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 500 for path in tmp_path.glob("decoded/*.keys")):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    building.send_signal(signal.SIGKILL)
    assert building.wait() == -signal.SIGKILL
    assert is_right(many, read(many, tmp_path)[1])
    assert 0 < len(decodes) < 80


def test_two_programs_at_once_decode_each_file_once(many, tmp_path):
    both = [_building(many, tmp_path) for _ in range(2)]
    assert [building.wait(timeout=120) for building in both] == [0, 0]
    assert is_right(many, read(many, tmp_path)[1])
    assert next(tmp_path.glob("decoded/*.rows")).stat().st_size == 80 * 768
    lines = next(tmp_path.glob("decoded/*.jsonl")).read_text().splitlines()
    assert sum(line.startswith('["') for line in lines) == 80


def test_a_program_that_waits_for_another_says_so(root, tmp_path, caplog, monkeypatch):
    read(root, tmp_path)
    put(root / "new.jpg")
    code = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    lock = next(tmp_path.glob("decoded/*.lock"))
    with subprocess.Popen([sys.executable, "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        log = logging.getLogger("artdiff.store")
        monkeypatch.setattr(log, "info", lambda line: (other.stdin.close(), log.warning(line)))
        with caplog.at_level("INFO"):
            assert is_right(root, read(root, tmp_path)[1])
    assert "another program is decoding pictures in the same way: waiting for it" in caplog.text


# the cache of version 0.1.0


def earlier_map(folder, root, *, transform=TRANSFORM, contents=slice(None), done=None, version=3):
    """Write a map as version 0.1.0 did: whole, or with so many files `done` if it was interrupted."""
    files = sorted((hashlib.sha256(path.read_bytes()).hexdigest(), path) for path in root.iterdir())[contents]
    kind = cache.key(version, PIL.__version__, transform)[:12]
    stem = folder / "decoded" / f"{kind}-{cache.key([20, 2], True, [digest for digest, _ in files])}"
    stem.parent.mkdir(exist_ok=True)
    pixels = np.zeros((len(files), transform.size, transform.size, 3), np.uint8)
    outcomes = []
    for row, (digest, path) in enumerate(files[:done]):
        try:
            pixels[row], facts = decode(path.read_bytes(), transform)
            outcomes.append([digest, facts, None, True])
        except Unreadable as error:
            outcomes.append([digest, None, str(error), True])
    with stem.with_suffix(".npy" if done is None else ".partial").open("wb") as stream:
        np.save(stream, pixels)
    if done is None:
        said = {"root": str(root), "transform": transform, "outcomes": outcomes, "alike": []}
        stem.with_suffix(".json").write_text(json.dumps(said))
    else:
        lines = [[row, one[0], zlib.crc32(pixels[row].tobytes()), *one[1:]] for row, one in enumerate(outcomes)]
        stem.with_suffix(".journal").write_text("\n" + "".join(json.dumps(line) + "\n" for line in lines) + "[5, 12")
    stem.with_suffix(".lock").touch()
    return stem


def test_maps_of_an_earlier_version_are_taken_over_and_removed(root, tmp_path, decodes, caplog):
    (root / "page.jpg").write_text("<html>")
    earlier_map(tmp_path, root, contents=slice(4))
    earlier_map(tmp_path, root, contents=slice(2, None))
    kept = earlier_map(tmp_path, root, transform=Transform(24, "squash", WHITE))
    with caplog.at_level("INFO"):
        outcomes, pixels, _ = read(root, tmp_path)
    assert decodes == ["page.jpg"]  # reasons say more now
    assert (outcomes["page.jpg"].reason, len(pixels)) == ("not a picture (HTML)", 6)
    assert is_right(root, pixels)
    assert {path.stem for path in tmp_path.glob("decoded/*.npy")} == {kept.name}
    assert not [record for record in caplog.records if record.levelname != "INFO"]
    assert caplog.text.count("pictures decoded by an earlier version are kept in") == 2


def test_files_of_several_pictures_are_not_taken_over(tmp_path, decodes):
    shown, other = picture(1), picture(2)
    (tmp_path / "root").mkdir()
    for name in ("1.png", "1.bmp", "1.webp", "1.jpg", "1.gif", "1.tif"):
        shown.save(tmp_path / "root" / name)
    for name in ("2.png", "2.webp", "2.gif", "2.tif"):
        other.save(tmp_path / "root" / name, save_all=True, append_images=[shown])
    other.save(tmp_path / "root/2.jpg", "MPO", save_all=True, append_images=[shown])
    earlier_map(tmp_path, tmp_path / "root")
    assert is_right(tmp_path / "root", read(tmp_path / "root", tmp_path)[1])
    assert sorted(decodes) == ["1.gif", "1.tif", "2.gif", "2.jpg", "2.png", "2.tif", "2.webp"]


def test_a_map_of_another_folder_is_left_for_it(root, tmp_path, decodes):
    stem = earlier_map(tmp_path, root)
    put(tmp_path / "other/1.jpg")
    read(tmp_path / "other", tmp_path)
    assert stem.with_suffix(".npy").exists()
    assert is_right(root, read(root, tmp_path)[1])
    assert decodes == ["1.jpg"]


def test_an_interrupted_map_of_an_earlier_version_is_taken_over(root, tmp_path, decodes):
    stem = earlier_map(tmp_path, root, done=4)
    with stem.with_suffix(".partial").open("r+b") as stream:  # a row that did not reach the disk
        stream.seek(128 + 2 * 768)
        stream.write(bytes(768))
    assert is_right(root, read(root, tmp_path)[1])
    assert len(decodes) == 3
    assert not list(tmp_path.glob(f"decoded/{stem.name}.*"))


def test_a_map_that_an_earlier_version_is_building_is_left_alone(root, tmp_path, decodes):
    stem = earlier_map(tmp_path, root, done=4)
    with FileLock(stem.with_suffix(".lock")):
        assert is_right(root, read(root, tmp_path)[1])
    assert len(decodes) == 6
    assert stem.with_suffix(".partial").exists()


# pruning


def test_pruning_removes_what_is_unused_and_nothing_else(root, tmp_path):
    folder = tmp_path / "cache"
    read(root, folder)
    read(root, folder, Transform(24, "squash", WHITE))
    earlier_map(folder, root, done=4)
    earlier_map(folder, root, version=2)
    (folder / "features").mkdir()
    (folder / f"features/{'a' * 32}.features").write_bytes(b"x")
    RowStore(folder / f"features/{'b' * 32}.rows", 8).append([bytes(32)], [bytes(8)])
    own = folder / "decoded/my notes.txt"
    own.write_text("mine")
    (folder / "sample_art").mkdir()
    kept = cache.kept(folder)
    assert sorted(one.what for one in kept) == [
        *(
            "6 decoded files, squash to 16 px",
            "6 decoded files, squash to 24 px",
            f"6 files of {root}, squash to 16 px",
        ),
        *("an interrupted build", "hashes of a folder's files"),
        *["perceptual features of pictures"] * 2,
    ]
    assert all(cache.remove(one) for one in kept)
    assert cache.kept(folder) == []
    assert {path.suffix for path in folder.glob("*/*")} == {".lock", ".txt"}
    assert (folder / "sample_art").exists()
    assert is_right(root, read(root, folder)[1])


def test_pruning_tells_how_much_it_freed(root, tmp_path):
    read(root, tmp_path / "cache")
    held = sum(one.bytes for one in cache.kept(tmp_path / "cache"))
    settings = {"unused_days": 0, "cache_dir": str(tmp_path / "cache")}
    assert prune(PruneSettings(**settings, dry_run=True)) == prune(PruneSettings(**settings, dry_run=False)) == held > 0
    assert cache.kept(tmp_path / "cache") == []


def test_pruning_goes_by_the_last_use(root, tmp_path):
    read(root, tmp_path)
    for path in tmp_path.glob("decoded/*"):
        os.utime(path, (1, 1))
    assert cache.kept(tmp_path)[0].used == 1
    read(root, tmp_path)
    assert all(time.time() - one.used < 60 for one in cache.kept(tmp_path))


def test_what_is_being_built_is_not_removed(root, tmp_path):
    read(root, tmp_path)
    one = next(one for one in cache.kept(tmp_path) if "6 decoded files" in one.what)
    with FileLock(one.paths[0].with_suffix(".lock")):
        assert not cache.remove(one)
    assert all(path.exists() for path in one.paths)


def test_a_store_that_is_removed_while_it_is_open_does_no_harm(root, tmp_path):
    _, pixels, _ = read(root, tmp_path)
    assert all(cache.remove(one) for one in cache.kept(tmp_path))
    assert is_right(root, pixels)
    assert is_right(root, read(root, tmp_path)[1])
