"""Long work in a thread of its own, which reports as it goes and ends when nobody listens any more."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """Nobody listens any more."""


class Report(Generic[T]):
    """What the work calls: with something to show, or `check` to end when it is no longer wanted."""

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
        """Raises `Stopped` if the work is to end."""
        if self.stopped.is_set():
            raise Stopped


def reported(work: Callable[[Report[T]], None], report: Report[T] | None = None) -> Iterator[T]:
    """What `work` reports, until it ends; its errors are raised here.

    Closing the iterator, or `report.stop()`, ends the work at its next report; nobody waits for that.
    """
    report = Report[T]() if report is None else report

    def run() -> None:
        try:
            work(report)
        except Stopped:
            pass
        except BaseException as error:  # raised where somebody sees it
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
