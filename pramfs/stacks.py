"""SIGUSR1: write what every thread and every task is doing, and go on."""

import faulthandler
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trio


def dump_on_sigusr1(descriptor: int) -> None:
    """From now on SIGUSR1 writes the stacks of threads and tasks to `descriptor`, which stays open.

    The threads are dumped by the signal handler itself, whatever they are waiting for; the tasks as soon as
    the main thread gets to it.
    """
    # Else faulthandler would keep its descriptor and lose its handler.
    faulthandler.unregister(signal.SIGUSR1)
    signal.signal(
        signal.SIGUSR1,
        lambda number, frame: _write(descriptor, "\n".join(["Tasks:", *_task_lines()])),
    )
    faulthandler.register(signal.SIGUSR1, file=descriptor, all_threads=True, chain=True)


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
        yield f"{indent}    {frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _lines_of(child, indent + "  ")


def _write(descriptor: int, text: str) -> None:
    os.write(descriptor, text.encode() + b"\n")
