"""Looking at every example in threads."""

from __future__ import annotations

import _thread
import signal
import threading
import time

import pytest

from kgen.data.encoded import scan as module
from kgen.data.encoded.scan import scan


@pytest.mark.parametrize("count", [0, 1, 64, 65, 1000])
def test_results_are_in_order(count: int) -> None:
    assert scan(range(count), lambda item: item * item, "test") == [item * item for item in range(count)]


def test_several_threads_take_part_and_end() -> None:
    before = threading.active_count()
    met = threading.Barrier(2)  # broken unless two threads wait at the same time

    def look(item: int) -> bool:
        if item < module.CHUNK:
            time.sleep(0.001)  # so slow that threads are needed
        elif item in (module.CHUNK, 2 * module.CHUNK):
            met.wait(10)
        return True

    assert all(scan(range(4 * module.CHUNK), look, "test"))
    assert threading.active_count() == before


def test_quick_items_need_no_thread() -> None:
    threads = set(scan(range(2000), lambda item: threading.current_thread(), "test"))
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize("count", [10, 1000])
def test_an_exception_is_raised_here(count: int) -> None:
    def look(item: int) -> None:
        if item == count - 5:
            raise ValueError("item")

    with pytest.raises(ValueError, match="item"):
        scan(range(count), look, "test")


def test_an_interrupt_ends_a_scan_of_many_files_at_once() -> None:
    """The bug report: 300,000 files were queued, and Ctrl-C waited for all of them, or for ever."""
    looked: list[int] = []

    def look(item: int) -> None:
        looked.append(item)
        if len(looked) == 100:
            _thread.interrupt_main()
        time.sleep(0.001)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # processes of pytest-xdist ignore it
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            scan(range(300_000), look, "test")
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 5 and len(looked) < 10_000
    time.sleep(0.2)
    ended = len(looked)
    time.sleep(0.1)
    assert len(looked) == ended, "the threads must have stopped"


def test_a_long_scan_reports_its_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "PROGRESS_EVERY", 0.05)
    scan(range(300), lambda item: time.sleep(0.005), "imagefolder x")
    lines = capsys.readouterr().err.splitlines()
    assert lines and lines[0].startswith("imagefolder x: checked ") and "of 300 images" in lines[0]
