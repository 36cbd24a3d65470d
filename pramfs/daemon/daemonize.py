"""Go to the background: the parent waits until the daemon reports success or failure, then exits.

The daemon reports one exit code through a pipe. Dying without a report is a failure, too.
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
from pramfs.system.surroundings import put_null

# They mean: unmount, save, exit. SIGHUP, too: a terminal that is gone is no reason to lose data. SIGXCPU
# comes in time before a limit of processor time, where SIGKILL follows.
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU)


class WaitingParent:
    """The daemon's view of the process that it was forked from, which waits for an exit code."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._is_told = False

    def report(self, code: int) -> None:
        """Report the parent's exit code, the first time, and leave the terminal and the caller's session.

        Until then the daemon stays in the caller's process group: an automounter gives only its own group
        access to the mountpoint until the mount is there.
        """
        if self._is_told:
            return
        self._is_told = True
        os.setsid()
        _leave_terminal()
        with contextlib.suppress(BrokenPipeError):  # the parent is gone
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
            # Not sys.exit, which would run the clean-up handlers of the parent.
            os._exit(code)


def fork_daemon() -> WaitingParent | int:
    """Fork; return the waiting parent in the daemon, and in the parent the exit code that is reported.

    A signal that ends the parent also ends the daemon: a caller who interrupts a mount must not find it
    mounted later.
    """
    require_single_thread()
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    child = os.fork()
    if child:
        os.close(write_end)
        return _await_report(read_end, child, mask)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # ignored under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _close_inherited(keep=write_end)
    return WaitingParent(write_end)


def _await_report(read_end: int, child: int, mask: set[int | signal.Signals]) -> int:
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    with os.fdopen(read_end, "rb") as pipe:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            word = pipe.read(1)
            # The outcome is known: an interrupt after this must not report that nothing is mounted.
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
        except KeyboardInterrupt:
            # A signal to this process alone is meant for the child as well.
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
    """Close inherited descriptors: the reader of a pipe would wait until the daemon ends."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != keep:
            with contextlib.suppress(OSError):  # the descriptor that was used to list the directory
                os.close(int(name))


def _leave_terminal() -> None:
    put_null(0, os.O_RDONLY)
    for descriptor in (1, 2):
        put_null(descriptor, os.O_WRONLY)
