"""On SIGUSR1, write the stacks of all threads and tasks to the log, and go on."""

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import trio


class StackDumps:
    """Handles SIGUSR1 from now on: writes the stacks of threads and tasks to `descriptor`.

    The main thread writes them when it next runs Python code. After `start_thread` another thread waits for
    the signal, and writes the stacks of the threads at once, even if the main thread is blocked.

    Both need the GIL, so nothing is written while a thread keeps that, such as one that copies memory which
    a slow disk has to read. faulthandler needs no GIL, but was seen to crash a daemon, because it walks the
    frames of threads that go on running.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._has_thread = False
        signal.signal(signal.SIGUSR1, lambda number, frame: self._write_in_main_thread())

    def start_thread(self) -> None:
        """Start the thread that waits for the signal. Only the main thread may call this.

        It must not be called before verification has forked: a child inherits the locks of all threads.
        """
        # Signals that end the daemon are for the main thread, which may block them: block them here, too.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            threading.Thread(target=self._run, name="pramfs-stacks", daemon=True).start()
        except RuntimeError:
            pass  # then the main thread handles the signal
        else:
            self._has_thread = True
            mask |= {signal.SIGUSR1}
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _run(self) -> NoReturn:
        while True:
            signal.sigwait({signal.SIGUSR1})
            self._write("Threads:", _thread_lines())
            _thread.interrupt_main(signal.SIGUSR1)

    def _write_in_main_thread(self) -> None:
        if not self._has_thread:
            self._write("Threads:", _thread_lines())
        self._write("Tasks:", _task_lines())

    def _write(self, title: str, lines: Iterable[str]) -> None:
        # An error must not reach the interrupted code: a task may be half created, or the disk full.
        with contextlib.suppress(Exception):
            text = "\n".join([time.strftime(f"%F %T {title}"), *lines, ""])
            os.write(self.descriptor, text.encode(errors="backslashreplace"))


def _thread_lines() -> Iterator[str]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        yield f"  {names.get(ident, ident)} (most recent call first)"
        yield from (f"    {_place(caller, caller.f_lineno)}" for caller in _callers(frame))


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _place(frame: FrameType, line: int | None) -> str:
    return f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"


def _task_lines() -> Iterator[str]:
    root = _root_task()
    if root is None:
        yield "  none: no request is served any more, or none yet"
    else:
        yield from _lines_of(root, "  ")


def _root_task() -> "trio.lowlevel.Task | None":
    # trio is imported late, and may be half imported at the moment.
    lowlevel = getattr(sys.modules.get("trio"), "lowlevel", None)
    try:
        return lowlevel.current_root_task() if lowlevel is not None else None
    except RuntimeError:
        return None


def _lines_of(task: "trio.lowlevel.Task", indent: str) -> Iterator[str]:
    yield f"{indent}{task.name}"
    for frame, line in task.iter_await_frames():
        yield f"{indent}    {_place(frame, line)}"
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _lines_of(child, indent + "  ")
