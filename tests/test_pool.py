"""A hostile file costs one entry: decoders that crash, hang, take all memory or write nothing are survived."""

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import picture, put
from PIL import Image

from artdiff import UserError
from artdiff.ingest import child, pool
from artdiff.ingest.child import Job, Rows
from artdiff.ingest.decode import Transform
from artdiff.settings.data import Limits

TRANSFORM = Transform(16, "squash", (255, 255, 255))
LIMITS = Limits(seconds=20, gigabytes=2)

HOSTILE = """
    import os, signal, time
    from PIL import Image, ImageFile

    class Hostile(ImageFile.ImageFile):
        format = "HOSTILE"

        def _open(self):
            self._size, self._mode = (8, 8), "RGB"

        def load(self):
            self.fp.seek(7)
            what = self.fp.read()
            if what == b"crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if what == b"hang":
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGTERM})
                while True:
                    time.sleep(1)
            if what == b"eat":
                eaten = bytearray(2**32)
            if what == b"exit":
                os._exit(7)
            if what == b"odd":
                raise KeyError("no such thing")

    Image.register_open("HOSTILE", Hostile, lambda start: start.startswith(b"HOSTILE"))
"""
"""A decoder that misbehaves as broken libraries do; every Python process of the test loads it."""


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(textwrap.dedent(HOSTILE))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))


def jobs_for(*paths):
    return [Job(str(path), path.stat().st_size, path.stat().st_mtime_ns, row) for row, path in enumerate(paths)]


def outcomes(jobs, limits=LIMITS, rows=None):
    return {Path(job.path).name: outcome for job, outcome in pool.run(jobs, TRANSFORM, limits, rows=rows)}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux only")
@pytest.mark.usefixtures("hostile")
def test_hostile_files_cost_one_entry_each(tmp_path):
    for name in ("crash", "hang", "eat", "exit", "odd"):
        (tmp_path / name).write_bytes(b"HOSTILE" + name.encode())
    good = [put(tmp_path / f"{index}.jpg") for index in range(20)]
    paths = [*good[:10], *(tmp_path / name for name in ("crash", "hang", "eat", "exit", "odd")), *good[10:]]
    found = outcomes(jobs_for(*paths), Limits(seconds=2, gigabytes=1))
    assert len(found) == 25
    assert all(found[path.name].facts is not None for path in good)
    assert {name: found[name].reason for name in ("crash", "hang", "eat", "exit", "odd")} == {
        "crash": "its decoder crashed (SIGSEGV)",
        "hang": "took longer than 2 s to decode",
        "eat": "needs more than 1 GB of memory to decode",
        "exit": "its decoder crashed (exit code 7)",
        "odd": "damaged HOSTILE: 'no such thing'",
    }


def test_rows_are_written_where_they_belong(tmp_path):
    paths = [put(tmp_path / f"{index}.jpg", index) for index in range(12)]
    target = tmp_path / "rows"
    target.write_bytes(bytes(12 * 768))
    found = outcomes(jobs_for(*paths), rows=Rows(str(target), 768))
    pixels = np.frombuffer(target.read_bytes(), np.uint8).reshape(12, 16, 16, 3)
    for row, path in enumerate(paths):
        expected = np.asarray(picture(row).resize((16, 16), Image.Resampling.BICUBIC), int)
        assert np.abs(pixels[row] - expected).mean() < 6
        assert found[path.name].facts[:2] == (48, 40)


@pytest.mark.slow
def test_a_slow_caller_costs_no_picture(tmp_path):
    jobs = jobs_for(*(put(tmp_path / f"{index}.jpg") for index in range(3)))
    for _, outcome in pool.run(jobs, TRANSFORM, Limits(seconds=0.8, gigabytes=2)):
        assert outcome.facts is not None
        time.sleep(0.9)


def test_a_process_that_cannot_start_says_why(tmp_path):
    with pytest.raises(UserError, match=r"did not start \(exit code 1\): OverflowError"):
        outcomes(jobs_for(put(tmp_path / "one.jpg")), Limits(seconds=20, gigabytes=1e300))


def test_a_row_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))"
    (tmp_path / "site/sitecustomize.py").write_text(
        f"import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); {limit}"
    )
    path = put(tmp_path / "one.jpg")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    (tmp_path / "rows").write_bytes(b"")
    with pytest.raises(UserError, match="rows cannot be written: no space left"):
        outcomes(jobs_for(path), rows=Rows(str(tmp_path / "rows"), 768))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_rows_that_cannot_be_written_are_reported(tmp_path):
    with pytest.raises(UserError, match="/dev/full cannot be written: No space left"):
        outcomes(jobs_for(put(tmp_path / "one.jpg")), rows=Rows("/dev/full", 768))


def test_a_file_that_changes_meanwhile_is_rejected_for_now(tmp_path):
    path = put(tmp_path / "one.jpg")
    jobs = jobs_for(path)
    os.utime(path, ns=(0, 0))
    gone = jobs_for(put(tmp_path / "two.jpg"))
    (tmp_path / "two.jpg").unlink()
    found = outcomes([*jobs, *gone])
    assert found["one.jpg"].reason == "cannot be read: it changed meanwhile"
    assert found["two.jpg"].reason == "cannot be read: No such file or directory"
    assert not any(outcome.lasting for outcome in found.values())


def test_a_file_that_is_replaced_is_not_decoded_as_another_content(tmp_path):
    path, other = put(tmp_path / "one.jpg", 1), put(tmp_path / "two.jpg", 2)
    size = max(path.stat().st_size, other.stat().st_size)
    for one in (path, other):
        one.write_bytes(one.read_bytes().ljust(size, b"\0"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    status = path.stat()
    job = Job(str(path), size, status.st_mtime_ns, 0, status.st_ctime_ns, digest)
    assert outcomes([job])["one.jpg"].facts is not None
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    found = outcomes([job])["one.jpg"]
    assert (found.reason, found.lasting) == ("cannot be read: it changed meanwhile", False)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # a fresh ctime: times are coarse, so it may be missed
    assert outcomes([job._replace(ctime=path.stat().st_ctime_ns)])["one.jpg"].reason == found.reason


def test_a_child_holds_a_lock_on_the_rows_that_it_writes(tmp_path):
    (tmp_path / "rows").write_bytes(bytes(768))
    running = pool.run(jobs_for(put(tmp_path / "one.jpg")), TRANSFORM, LIMITS, rows=Rows(str(tmp_path / "rows"), 768))
    next(running)
    with (tmp_path / "rows").open() as stream:
        with pytest.raises(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        running.close()
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_whole_pictures(tmp_path):
    paths = [put(tmp_path / f"{index}.jpg", index) for index in range(6)]
    (tmp_path / "page.jpg").write_text("<html>")
    os.mkfifo(tmp_path / "pipe.jpg")
    others = [tmp_path / name for name in ("page.jpg", "pipe.jpg", "none.jpg")]
    found = {one.path: one for one in pool.read([*paths, *others], LIMITS)}
    for index, path in enumerate(paths):
        assert np.abs(np.asarray(found[path].picture, int) - np.asarray(picture(index), int)).mean() < 6
        assert not found[path].reason
    assert [found[path].picture for path in others] == [None] * 3
    assert [found[path].reason for path in others] == [
        "not a picture (HTML)",
        "not a file but a pipe, a socket or a device",
        "cannot be read: No such file or directory",
    ]


LIMITED = """
import resource, sys
from pathlib import Path
from artdiff import UserError
from artdiff.ingest import child, pool
from artdiff.settings.data import Limits
resource.setrlimit(getattr(resource, sys.argv[1]), (int(sys.argv[2]),) * 2)
try:
    for path, found, reason, _ in pool.read([Path(word) for word in sys.argv[3:]], Limits(seconds=20, gigabytes=4)):
        print(path.name, reason if found is None else found.size)
except UserError as error:
    print("error:", error)
"""
"""A program that the system allows less than it asks for."""


def limited(what, limit, *paths):
    words = [sys.executable, "-c", LIMITED, what, str(limit), *paths]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux only")
def test_the_lower_of_two_limits_on_memory_counts(tmp_path):
    small = put(tmp_path / "small.jpg")
    Image.new("L", (20_000, 8_000)).save(tmp_path / "large.png")
    fits, does_not = limited("RLIMIT_AS", 400 * 10**6, small, tmp_path / "large.png")
    assert fits == "small.jpg (48, 40)"
    assert does_not.startswith("large.png needs more memory than the system allows, 0.")
    assert does_not.endswith(" GB (ulimit -v)")
    assert len(limited("RLIMIT_CORE", 0, small)) == 1
    (line,) = limited("RLIMIT_AS", 90 * 10**6, small)
    assert line.startswith("error: a process that decodes pictures did not start")
    assert line.endswith("the system allows a process 0.09 GB of memory: raise that limit (ulimit -v)")


def test_a_system_without_room_for_processes_or_temporary_files(tmp_path, monkeypatch):
    path = put(tmp_path / "one.jpg")
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null")
    assert outcomes(jobs_for(path))["one.jpg"].facts is not None

    def refused(*args, **kwargs):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refused)
    with pytest.raises(UserError, match="did not start: Resource temporarily unavailable"):
        outcomes(jobs_for(path))


def test_a_process_whose_parent_was_killed_writes_no_row(tmp_path, monkeypatch):
    path, rows = put(tmp_path / "one.jpg"), tmp_path / "rows"
    rows.write_bytes(bytes(768))
    work = child.ToRow(TRANSFORM, [str(rows), 768])
    monkeypatch.setattr(os, "getppid", lambda: 1)
    with pytest.raises(SystemExit):
        work(jobs_for(path)[0])
    assert rows.read_bytes() == bytes(768)


def test_names_that_are_no_text_reach_the_process(tmp_path):
    names = ["caf\udce9.jpg", "two\nlines.jpg", 'a "b"\t.jpg', "\x85.jpg"]
    found = outcomes(jobs_for(*(put(tmp_path / name) for name in names)))
    assert {name for name in names if found[name].facts is not None} == set(names)
