"""Long work in its own thread, which reports progress and ends when nobody reads the reports any more."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The work was stopped."""


class Report(Generic[T]):
    """What the work calls to show something; `check` raises `Stopped` when the work is no longer wanted."""

    def __init__(self) -> None:
        self.said: queue.Queue[T | BaseException | None] = queue.Queue()
        self.stopped = threading.Event()

    def __call__(self, shown: T) -> None:
        """Show something. Raises `Stopped`."""
        self.check()
        self.said.put(shown)

    def stop(self) -> None:
        """End the work at its next report."""
        self.stopped.set()

    def check(self) -> None:
        """Raise `Stopped` if the work was stopped."""
        if self.stopped.is_set():
            raise Stopped


def reported(work: Callable[[Report[T]], None], report: Report[T] | None = None) -> Iterator[T]:
    """Run `work` in a thread and yield its reports; its errors are raised here.

    Closing the iterator, or `report.stop()`, ends the work at its next report, without waiting for it.
    """
    report = Report[T]() if report is None else report

    def run() -> None:
        try:
            work(report)
        except Stopped:
            pass
        except BaseException as error:  # raised again in the reader's thread
            report.said.put(error)
        report.said.put(None)

    threading.Thread(target=run, daemon=True).start()
    try:
        while (shown := report.said.get()) is not None:
            if isinstance(shown, BaseException):
                raise shown
            yield shown
    finally:
        report.stop()
