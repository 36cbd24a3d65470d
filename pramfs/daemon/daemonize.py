"""Go to the background and leave nobody in the dark: the parent exits once the daemon has said how it is.

The daemon reports one exit code through a pipe. One that dies without a word is a failure too.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from pramfs.errors import EXIT_INTERRUPTED, EXIT_SYSTEM
from pramfs.system.forked_call import require_single_thread

_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class WaitingParent:
    """The process that the daemon was forked from, as the daemon sees it: it waits for an exit code."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._is_told = False

    def report(self, code: int) -> None:
        """Tell the parent its exit code, the first time; let go of the terminal and the caller's session.

        Until then the daemon is in its caller's process group: an automounter lets only its own group look
        at the mountpoint, and the mount has to be there before anybody else may.
        """
        if self._is_told:
            return
        self._is_told = True
        os.setsid()
        _leave_terminal()
        with contextlib.suppress(BrokenPipeError):  # the parent is gone: then nobody asks
            os.write(self._pipe, bytes((code,)))
        os.close(self._pipe)

    def end_with(self, body: Callable[[], int]) -> NoReturn:
        """Run the daemon's `body`, and end this process with the exit code that it returns."""
        code = EXIT_SYSTEM
        try:
            code = body()
        except BaseException:  # noqa: BLE001 - the process ends here, and must say why
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            self.report(code)
            # Not sys.exit: the parent's cleanups are not the child's to run.
            os._exit(code)


def fork_daemon() -> WaitingParent | int:
    """Fork; returns in the daemon the parent who waits, and in the parent the code that the daemon reports.

    A parent that a signal ends, ends the daemon: nothing is mounted behind the back of a caller who was told
    that it is over.
    """
    require_single_thread()
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    child = os.fork()
    if child:
        os.close(write_end)
        return _await_report(read_end, child, mask)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _close_inherited(keep=write_end)
    return WaitingParent(write_end)


def _await_report(read_end: int, child: int, mask: set[int | signal.Signals]) -> int:
    for number in _ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    with os.fdopen(read_end, "rb") as pipe:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            word = pipe.read(1)
            # It is decided now: who interrupts this process any later must not hear that nothing is mounted.
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
        except KeyboardInterrupt:
            # Who sends a signal to this process alone means the child as well.
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
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
