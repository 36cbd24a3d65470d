"""Go to the background and leave nobody in the dark: the parent exits once the child has said how it is.

The child reports one exit code through a pipe. A child that dies without a word is a failure too.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

from pramfs.errors import EXIT_INTERRUPTED, EXIT_SYSTEM

_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_in_background(body: Callable[[Callable[[int], None]], int]) -> int:
    """Run `body` in a child; return in the parent what the child reports, at the latest its end.

    `body` is called in the child with a function that reports an exit code and then lets go of the
    terminal. What `body` returns is the exit code of the child. A parent that a signal ends, ends the child:
    nothing is mounted behind the back of a caller who was told that it is over.
    """
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    child = os.fork()
    if child:
        os.close(write_end)
        return _await_report(read_end, child, mask)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.setsid()
    _close_inherited(keep=write_end)
    reported = False

    def report(code: int) -> None:
        nonlocal reported
        if not reported:
            reported = True
            _leave_terminal()
            with contextlib.suppress(BrokenPipeError):  # the parent is gone: then nobody asks
                os.write(write_end, bytes((code,)))
            os.close(write_end)

    code = EXIT_SYSTEM
    try:
        code = body(report)
    except BaseException:  # noqa: BLE001 - the process ends here, and must say why
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        report(code)
        # Not sys.exit: the parent's cleanups are not the child's to run.
        os._exit(code)


def _await_report(read_end: int, child: int, mask: set[int | signal.Signals]) -> int:
    for number in _ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _interrupt)
    with os.fdopen(read_end, "rb") as pipe:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            word = pipe.read(1)
            # It is decided now: who interrupts this process any later must not hear that nothing is mounted.
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
        except KeyboardInterrupt:
            # The child is in a session of its own and has heard nothing of it.
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
            return EXIT_INTERRUPTED
    if word:
        return word[0]
    _, status = os.waitpid(child, 0)
    print(f"pramfs: the daemon died while it started (wait status {status})", file=sys.stderr)
    return EXIT_SYSTEM


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _close_inherited(keep: int) -> None:
    """Close what the caller had open: a pipe that a daemon holds keeps its reader waiting for ever."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != keep:
            with contextlib.suppress(OSError):  # the descriptor that listed the directory
                os.close(int(name))


def _leave_terminal() -> None:
    """Keep no directory busy and no terminal open."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
