"""Where the programs begin, and how Ctrl-C ends them: quietly, with an exit code that says so.

Python makes an exception of SIGINT wherever it happens to be. Whoever catches it cleans up after himself, but
a module that is being loaded loses it, or makes another error of it; before and after all else nobody would
catch it. Imported at the top is only what Python has loaded by then: the rest is loaded under guard.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType

_EXIT_INTERRUPTED = 8  # as in `errors`, which is not loaded yet
_LOADER = "<frozen importlib._bootstrap>"


def pramfs() -> int:
    """The command pramfs."""

    def command() -> int:
        from pramfs.cli.main import main

        return main()

    return _interruptible(command)


def mount_helper() -> int:
    """The command mount.pramfs, also called mount.fuse.pramfs."""

    def command() -> int:
        from pramfs.cli import mount_helpers

        return mount_helpers.mount_helper()

    return _interruptible(command)


def umount_helper() -> int:
    """The command umount.pramfs, also called umount.fuse.pramfs."""

    def command() -> int:
        from pramfs.cli import mount_helpers

        return mount_helpers.umount_helper()

    return _interruptible(command)


def _interruptible(command: Callable[[], int]) -> int:
    """Run the command; returns its exit code."""
    try:
        try:
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup has it
                signal.signal(signal.SIGINT, _interrupt)
            return command()
        finally:
            # What is over is over, while Python ends, too.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename == _LOADER:
            os._exit(_EXIT_INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
