"""One program at a time writes to the cache, also on network disks without locks; a cache that is read-only says so."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from conftest import put
from test_decoded import is_right, read
from test_store import append, opened, present, writing

from artdiff import UserError, cache, locks, prune
from artdiff.ingest.decode import Transform
from artdiff.locks import Lock

REFUSALS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS]


def refuse(monkeypatch, number=errno.ENOLCK):
    """Have `flock` answer as on a network disk."""

    def flock(stream, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture(params=["flock", *REFUSALS])
def disk(request, monkeypatch):
    if request.param != "flock":
        refuse(monkeypatch, request.param)


@pytest.mark.usefixtures("disk")
def test_one_holder_at_a_time(tmp_path):
    one, other = Lock(tmp_path / "a.lock"), Lock(tmp_path / "a.lock")
    with one.held(), one.held():
        one.check()
        assert not other.take()
        found = []
        thread = threading.Thread(target=lambda: found.append(one.take()))
        thread.start()
        thread.join()
        assert found == [False]
    assert other.take()
    assert not one.take()
    other.release()
    assert {path.name for path in tmp_path.iterdir()} == {"a.lock"}


def marker(folder, *owner):
    (folder / "a.locked").write_text(json.dumps(owner) + "\n000000001\n")
    return folder / "a.locked"


def ended():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


@pytest.mark.parametrize("begun", ["1", "another process has this number now"])
def test_a_marker_whose_process_has_ended_is_removed_at_once(tmp_path, monkeypatch, begun):
    refuse(monkeypatch)
    marker(tmp_path, locks._machine(), ended() if begun == "1" else os.getpid(), begun, "x")
    lock, since = Lock(tmp_path / "a.lock"), time.monotonic()
    with lock.held():
        assert time.monotonic() - since < 1


@pytest.mark.parametrize("owner", [("another machine", 1, "1", "x"), None], ids=["another machine", "torn"])
def test_a_marker_counts_until_it_has_not_changed_for_a_while(tmp_path, monkeypatch, owner):
    refuse(monkeypatch)
    monkeypatch.setattr(locks, "ABANDONED", 0.3)
    path, lock = marker(tmp_path, *(owner or ())), Lock(tmp_path / "a.lock")
    if owner is None:
        path.write_text('["anoth')
    os.utime(path, (1, 1))  # the clocks of other machines do not matter
    assert not lock.take()
    path.write_text(path.read_text() + "still here\n")
    time.sleep(0.2)
    assert not lock.take()
    since = time.monotonic()
    with lock.held():
        assert 0.05 < time.monotonic() - since < 1


def test_a_holder_shows_that_it_is_alive(tmp_path, monkeypatch):
    refuse(monkeypatch)
    monkeypatch.setattr(locks, "BEAT", 0.02)
    monkeypatch.setattr(locks, "ABANDONED", 0.4)
    other = Lock(tmp_path / "a.lock")
    with Lock(tmp_path / "a.lock").held():
        monkeypatch.setattr(locks, "_machine", lambda: "another machine")
        until = time.monotonic() + 0.8
        while time.monotonic() < until:
            assert not other.take()
            time.sleep(0.05)


def test_a_holder_that_was_taken_over_writes_no_more(tmp_path, monkeypatch):
    refuse(monkeypatch)
    monkeypatch.setattr(locks, "ABANDONED", 0.0)
    store = opened(tmp_path)
    with store._locked():
        store._lock.check()
        (tmp_path / "some.locked").write_text("another program's")
        with pytest.raises(OSError, match="taken over"):
            store._append({bytes(32): bytes(64)})
    assert (tmp_path / "some.locked").exists()
    assert (tmp_path / "some.rows").stat().st_size == 0


def test_a_build_that_was_taken_over_leaves_the_rows_of_the_new_one(tmp_path, monkeypatch):
    refuse(monkeypatch)
    monkeypatch.setattr(locks, "ABANDONED", 0.0)
    store = opened(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.building("waiting"):
        (tmp_path / "some.locked").write_text("another program's")
        (tmp_path / "some.rows").write_bytes(bytes(128))
        raise KeyboardInterrupt
    assert (tmp_path / "some.rows").stat().st_size == 128


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system does not count the time asleep")
def test_a_holder_whose_machine_was_asleep_looks_before_it_writes(tmp_path, monkeypatch):
    refuse(monkeypatch)
    clock = time.clock_gettime
    lock = Lock(tmp_path / "a.lock")
    with lock.held():
        (tmp_path / "a.locked").write_text("another program's")
        lock.check()  # a marker that was written a moment ago is not looked at
        monkeypatch.setattr(time, "clock_gettime", lambda which: clock(which) + 3600)  # `monotonic` stood still
        with pytest.raises(OSError, match="taken over"):
            lock.check()


def test_a_holder_notices_at_its_next_beat_that_it_was_taken_over(tmp_path, monkeypatch):
    refuse(monkeypatch)
    monkeypatch.setattr(locks, "BEAT", 0.01)
    lock = Lock(tmp_path / "a.lock")
    with lock.held():
        path = tmp_path / "a.locked"
        (tmp_path / "other").write_text("another program's")
        (tmp_path / "other").replace(path)
        until = time.monotonic() + 5
        while lock.is_ours and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(OSError, match="taken over"):
            lock.check()


SITE = """
    import errno, fcntl

    def flock(stream, how):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    fcntl.flock = flock
"""


@pytest.fixture
def without_locks(tmp_path, monkeypatch):
    """This program and all that it starts find no locks."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(textwrap.dedent(SITE))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    refuse(monkeypatch, errno.EOPNOTSUPP)


@pytest.mark.usefixtures("without_locks")
def test_writers_do_not_disturb_each_other_without_locks(tmp_path):
    both = [writing(tmp_path, first, how) for first, how in ((0, "append"), (1000, "build"))]
    killed = writing(tmp_path, 2000, "build")
    time.sleep(0.05)
    killed.kill()
    for process in (*both, killed):
        process.communicate()
    store = opened(tmp_path)
    assert append(store, 3000) == 1
    assert present(store, *range(2000)) == [*range(400), *range(1000, 1400)]
    assert not (tmp_path / "some.locked").exists()


@pytest.mark.usefixtures("without_locks")
def test_pictures_are_decoded_and_pruned_without_locks(tmp_path):
    for index in range(3):
        put(tmp_path / f"root/{index}.jpg")
    assert is_right(tmp_path / "root", read(tmp_path / "root", tmp_path / "cache")[1])
    assert all(cache.remove(one) for one in cache.kept(tmp_path / "cache"))
    assert cache.kept(tmp_path / "cache") == []


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """A folder of pictures that were decoded into a cache which has become read-only since."""
    put(tmp_path / "root/0.jpg")
    put(tmp_path / "root/1.jpg")
    os.utime(tmp_path / "root", (1, 1))
    read(tmp_path / "root", tmp_path / "cache")
    here, real = str(tmp_path / "cache"), os.open

    def denied(path, *args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    def opened(path, flags, *args, **kwargs):
        if str(path).startswith(here) and flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            denied(path)
        return real(path, flags, *args, **kwargs)

    def opens(path, mode="r", *args, **kwargs):
        return (
            denied(path)
            if str(path).startswith(here) and set("wax+") & set(mode)
            else real_open(path, mode, *args, **kwargs)
        )

    real_open = Path.open
    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(Path, "open", opens)
    for name in ("unlink", "mkdir", "utime"):
        monkeypatch.setattr(os, name, denied)
    return tmp_path


def test_a_read_only_cache_is_read(read_only):
    assert is_right(read_only / "root", read(read_only / "root", read_only / "cache")[1])


def test_a_read_only_cache_that_lacks_something_names_the_settings(read_only):
    with pytest.raises(UserError, match="Read-only file system; set data.cache_dir or ARTDIFF_CACHE to a folder"):
        read(read_only / "root", read_only / "cache", Transform(24, "squash", (255, 255, 255)))
    with pytest.raises(UserError, match="cannot be pruned: Read-only file system; set cache_dir or ARTDIFF_CACHE"):
        prune._removed(cache.kept(read_only / "cache")[0])


def test_a_read_only_cache_is_not_needed_if_no_pixels_are_kept(read_only, caplog):
    smaller = Transform(24, "squash", (255, 255, 255))
    outcomes, _, _ = read(read_only / "root", read_only / "cache", smaller, keep_pixels=False)
    assert all(one.facts is not None for one in outcomes.values())
    assert len(outcomes) == 2
    assert "files will be checked again next time" in caplog.text


def test_a_full_disk_names_the_settings(tmp_path, monkeypatch):
    put(tmp_path / "root/0.jpg")
    allocate = "posix_fallocate"

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, allocate, full)
    with pytest.raises(
        UserError, match="No space left on device; set data.cache_dir or ARTDIFF_CACHE to a folder on a"
    ):
        read(tmp_path / "root", tmp_path / "cache")
