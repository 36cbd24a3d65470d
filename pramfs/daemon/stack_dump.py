"""SIGUSR1: write what every thread and every task is doing, and go on."""

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
    """From now on SIGUSR1 writes the stacks of threads and tasks to `descriptor`, and nothing else happens.

    The main thread writes them as soon as it gets to it. After `start_thread` another thread waits for the
    signal and writes those of the threads at once, whatever the main thread waits for.

    Both hold the interpreter's lock while they look, so nothing comes while somebody else keeps it, who
    copies memory that a disk is slow to bring. faulthandler needs no lock, and was seen to end a daemon: it
    follows the frames of a thread that goes on meanwhile.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._has_thread = False
        signal.signal(signal.SIGUSR1, lambda number, frame: self._write_in_main_thread())

    def start_thread(self) -> None:
        """Have a thread wait for the signal. To be called by the main thread.

        Not before verification has forked: a child has the locks of all threads.
        """
        # What ends a daemon is for the main thread, which may let it wait: this one must not take it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            threading.Thread(target=self._run, name="pramfs-stacks", daemon=True).start()
        except RuntimeError:
            pass  # then it stays with the main thread
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
        # Who is interrupted by this must not bear what goes wrong: a task may be half made, a disk full.
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
    # trio is loaded late, and may be half loaded just now.
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
