"""Rows come back as they were written, whatever happens to the files and whoever else writes to them."""

import errno
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from artdiff import store as stores
from artdiff.store import ENTRY, RowStore

BYTES = 64


def key(number):
    return number.to_bytes(32, "little")


def row(number):
    return np.random.default_rng(number).bytes(BYTES)


def opened(folder, **options):
    return RowStore(folder / "some.rows", BYTES, **options)


def size(path):
    return path.stat().st_size


def append(store, *numbers):
    return store.append([key(number) for number in numbers], [row(number) for number in numbers])


def present(store, *numbers):
    """Those of the numbers whose row is there; it must be right."""
    found = store.read([key(number) for number in numbers])
    assert all(content in (None, row(number)) for number, content in zip(numbers, found, strict=True))
    return [number for number, content in zip(numbers, found, strict=True) if content is not None]


def build(store, *numbers):
    """Write rows in place, as the processes that decode do."""
    with store.building("waiting"):
        for number, place in zip(numbers, store.reserve(len(numbers)), strict=True):
            with store.path.open("r+b") as stream:
                stream.seek(place * BYTES)
                stream.write(row(number))
            store.record(key(number), place, zlib.crc32(row(number)))


def test_rows_are_read_by_key_now_and_by_the_next_program(tmp_path):
    store = opened(tmp_path)
    assert append(store, 5, 0, 7) == 3
    assert append(store, 7, 8) == 2
    for one in (store, opened(tmp_path)):
        assert present(one, 7, 5, 9, 8, 0) == [7, 5, 8, 0]
        rows = one.find([key(5), key(9), key(8)])
        assert rows[1] == -1
        assert one.rows[rows[[0, 2]]].tobytes() == row(5) + row(8)
    assert size(tmp_path / "some.rows") == 4 * BYTES


def test_an_open_store_sees_what_another_program_appends(tmp_path):
    one, other = opened(tmp_path), opened(tmp_path)
    append(one, 1)
    append(other, 2)
    append(one, 3)
    assert present(other, 1, 2, 3) == present(one, 1, 2, 3) == [1, 2, 3]
    assert len(one.rows) == len(other.rows) == 3


def test_an_index_of_100_000_rows_opens_fast(tmp_path):
    keys = [os.urandom(32) for _ in range(100_000)]
    store = RowStore(tmp_path / "some.rows", 4)
    store.append(keys, [number.to_bytes(4, "big") for number in range(100_000)])
    begun = time.perf_counter()
    store = RowStore(tmp_path / "some.rows", 4)
    rows = store.find(keys)
    assert time.perf_counter() - begun < 1.5  # 0.07 s on an idle machine
    assert rows.tolist() == list(range(100_000))


def test_checks_of_entries_are_those_of_zlib():
    entries = np.frombuffer(os.urandom(ENTRY.itemsize * 20), ENTRY)
    assert stores._checks(entries).tolist() == [zlib.crc32(one.tobytes()[:-4]) for one in entries]


@pytest.mark.parametrize("damage", ["other bytes", "cut off", "zeros"])
def test_a_damaged_row_counts_as_absent_and_can_be_written_again(tmp_path, damage):
    append(opened(tmp_path), 0, 1, 2)
    path = tmp_path / "some.rows"
    content = bytearray(path.read_bytes())
    if damage == "other bytes":
        content[-9] ^= 1
    content[2 * BYTES :] = {"cut off": content[2 * BYTES : -9], "zeros": bytes(BYTES)}.get(damage, content[2 * BYTES :])
    path.write_bytes(content)
    again = opened(tmp_path)
    assert present(again, 0, 1, 2) == [0, 1]
    assert append(again, 2) == 1
    assert present(again, 0, 1, 2) == present(opened(tmp_path), 0, 1, 2) == [0, 1, 2]


@pytest.mark.parametrize("damage", ["torn", "flipped", "gone"])
def test_damaged_keys_cost_their_rows_only(tmp_path, damage):
    append(opened(tmp_path), 0, 1, 2)
    path = tmp_path / "some.keys"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-20] ^= 1
    path.write_bytes({"torn": content[:-7], "gone": b""}.get(damage, content))
    left = [] if damage == "gone" else [0, 1]
    store = opened(tmp_path)
    assert present(store, 0, 1, 2) == left
    append(store, 3)
    assert present(store, 0, 1, 2, 3) == present(opened(tmp_path), 0, 1, 2, 3) == [*left, 3]


@pytest.mark.parametrize("suffix", [".rows", ".keys"])
def test_files_that_are_removed_or_cut_under_an_open_store_are_begun_anew(tmp_path, suffix):
    store = opened(tmp_path)
    build(store, 0, 1)
    (tmp_path / "some").with_suffix(suffix).unlink()
    build(store, 2, 3)
    assert present(store, 0, 1, 2, 3) == present(opened(tmp_path), 0, 1, 2, 3) == [2, 3]
    os.truncate(tmp_path / "some.rows", BYTES)
    build(store, 4)
    again = opened(tmp_path)
    assert present(store, 2, 3, 4) == present(again, 2, 3, 4)
    assert 4 in present(again, 2, 3, 4)


def test_no_more_than_max_bytes_is_kept(tmp_path, caplog):
    store = opened(tmp_path, max_bytes=3 * BYTES)
    assert append(store, 0, 1, 2, 3, 4) == 3
    assert append(store, 5) == 0
    assert present(store, 0, 1, 2, 3, 4, 5) == [0, 1, 2]
    assert size(store.path) == 3 * BYTES
    assert caplog.text.count("no more rows are kept") == 1


@pytest.mark.parametrize("short", [False, True], ids=["refused", "cut short"])
@pytest.mark.parametrize("file", ["rows", "keys"])
def test_a_full_disk_keeps_what_fits(tmp_path, caplog, monkeypatch, file, short):
    store = opened(tmp_path)
    append(store, 0)
    write, full = os.pwrite, {(store._payload if file == "rows" else store._keys).fileno()}
    taken = []

    def pwrite(stream, content, offset):
        if stream not in full:
            return write(stream, content, offset)
        if short and not taken:
            taken.append(write(stream, content[:100], offset))
            return taken[0]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", pwrite)
    kept = 1 if short and file == "rows" else 0
    assert append(store, 1, 2, 3) == kept
    assert append(store, 3) == 0
    monkeypatch.undo()
    for one in (store, opened(tmp_path)):
        assert present(one, 0, 1, 2, 3) == [0, 1][: 1 + kept]
    assert append(store, 1, 2, 3) == 3
    assert present(opened(tmp_path), 0, 1, 2, 3) == [0, 1, 2, 3]
    assert caplog.text.count("no more rows are kept") == 1


def test_a_store_that_may_only_be_read_can_be_read(tmp_path, monkeypatch, caplog):
    append(opened(tmp_path), 0, 1)

    def denied(path, *args):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "utime", denied)
    monkeypatch.setattr(stores.os, "open", denied)
    store = opened(tmp_path)
    monkeypatch.undo()
    assert present(store, 0, 1, 2) == [0, 1]
    assert append(store, 2) == 0
    assert "no more rows are kept" in caplog.text


# building


def test_a_build_reuses_rows_that_were_reserved_and_never_recorded(tmp_path):
    store = opened(tmp_path)
    with store.building("waiting"):
        places = store.reserve(5)
        assert size(store.path) == 5 * BYTES  # the room is taken at once
        for number in (1, 3):
            os.pwrite(store._payload.fileno(), row(number), places[number] * BYTES)
            store.record(key(number), places[number], zlib.crc32(row(number)))
    assert size(store.path) == 4 * BYTES
    build(store, 10, 11, 12)
    assert present(opened(tmp_path), 1, 3, 10, 11, 12) == [1, 3, 10, 11, 12]
    assert size(store.path) == 5 * BYTES


def test_room_that_a_killed_build_took_is_given_back_first(tmp_path):
    store = opened(tmp_path)
    build(store, 0, 1)
    store._drop([key(0)])
    with store.path.open("r+b") as stream:
        stream.truncate(9 * BYTES)
    again = opened(tmp_path)
    with again.building("waiting"):
        assert size(store.path) == 2 * BYTES
        assert again.reusable == 1
        assert again.reserve(2) == [0, 2]
        assert again.reusable == 0


def interrupted(store, *numbers):
    with pytest.raises(KeyboardInterrupt), store.building("waiting"):
        for number, place in zip(numbers, store.reserve(len(numbers)), strict=True):
            os.pwrite(store._payload.fileno(), row(number), place * BYTES)
            store.record(key(number), place, zlib.crc32(row(number)))
        raise KeyboardInterrupt


def test_rows_of_an_interrupted_build_are_checked_before_they_are_trusted(tmp_path):
    build(opened(tmp_path), 0)
    interrupted(opened(tmp_path), 1, 2, 3)
    with (tmp_path / "some.rows").open("r+b") as stream:  # a row that did not reach the disk
        stream.seek(2 * BYTES)
        stream.write(bytes(BYTES))
    store = opened(tmp_path)
    wanted = [key(number) for number in range(4)]
    assert store.find(wanted, sealed=True).tolist() == [0, -1, -1, -1]
    build(store, 9)
    for one in (store, opened(tmp_path)):
        assert one.find(wanted, sealed=True).tolist() == [0, 1, -1, 3]
        assert present(one, 0, 1, 2, 3, 9) == [0, 1, 3, 9]
        assert one.find([key(9)]).tolist() == [2]


def test_a_seal_is_written_after_the_rows_are_on_disk(tmp_path, monkeypatch):
    store, calls = opened(tmp_path), []
    monkeypatch.setattr(os, "fsync", lambda stream: calls.append((stream, size(tmp_path / "some.keys"))))
    build(store, 0, 1)
    entries = 2 * ENTRY.itemsize
    assert calls == [(store._payload.fileno(), entries), (store._keys.fileno(), entries)]
    assert size(tmp_path / "some.keys") == entries + ENTRY.itemsize
    build(store)
    assert len(calls) == 2  # nothing new: nothing to wait for


def test_a_build_waits_for_processes_of_a_killed_one(tmp_path, caplog):
    build(opened(tmp_path), 0)
    code = "import fcntl, sys, time; rows = open(sys.argv[1]); fcntl.flock(rows, fcntl.LOCK_SH); print(flush=True)"
    code += "; time.sleep(0.5)"
    left = subprocess.Popen([sys.executable, "-c", code, tmp_path / "some.rows"], stdout=subprocess.PIPE)
    left.stdout.readline()
    with caplog.at_level("INFO"):
        build(opened(tmp_path), 1)
    assert "waiting" in caplog.text
    assert left.wait(timeout=0.3) == 0


WRITE = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_store import append, build, opened
store, first = opened(Path(sys.argv[1])), int(sys.argv[2])
print(flush=True)
for number in range(first, first + 400, 4):
    (build if sys.argv[3] == "build" else append)(store, *range(number, number + 4))
"""


def writing(folder, first, how):
    code = WRITE.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen([sys.executable, "-c", code, folder, str(first), how], stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


@pytest.mark.parametrize("how", ["append", "build"])
def test_killed_at_any_moment_no_row_is_wrong(tmp_path, how):
    counts = []
    for kill, wait in enumerate((0.002, 0.03, 0.2)):
        process = writing(tmp_path, 1000 * kill, how)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        store = opened(tmp_path)
        counts.append(len(present(store, *range(1000 * kill, 1000 * kill + 400))))
        build(store, 1000 * kill + 500)
        append(store, 1000 * kill + 501)
    assert sum(counts) > 0
    found = present(opened(tmp_path), *range(3000))
    assert len(found) == sum(counts) + 6


def test_two_writers_at_once_do_not_disturb_each_other(tmp_path):
    both = [writing(tmp_path, first, how) for first, how in ((0, "append"), (200, "append"), (1000, "build"))]
    for process in both:
        process.communicate()
        assert process.returncode == 0
    store = opened(tmp_path)
    assert present(store, *range(2000)) == [*range(600), *range(1000, 1400)]
    assert size(store.path) == 1000 * BYTES
