"""The entry points of the programs, and their end on Ctrl-C: quiet, with an exit code of its own.

Python raises KeyboardInterrupt wherever it happens to be. Commands clean up when they catch it, but a module
that is being imported may lose it or turn it into another error, and at the very start and end nothing
catches it. So only modules that Python has loaded anyway are imported at the top, the others under guard.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType

_EXIT_INTERRUPTED = 8  # as in `errors`, which is not loaded yet
_LOADER = "<frozen importlib._bootstrap>"


def pramfs() -> int:
    """Run the command pramfs."""

    def command() -> int:
        from pramfs.cli.main import main

        return main()

    return _interruptible(command)


def mount_helper() -> int:
    """Run the command mount.pramfs, also called mount.fuse.pramfs."""

    def command() -> int:
        from pramfs.cli import mount_helpers

        return mount_helpers.mount_helper()

    return _interruptible(command)


def umount_helper() -> int:
    """Run the command umount.pramfs, also called umount.fuse.pramfs."""

    def command() -> int:
        from pramfs.cli import mount_helpers

        return mount_helpers.umount_helper()

    return _interruptible(command)


def _interruptible(command: Callable[[], int]) -> int:
    """Run the command and return its exit code, or that of an interrupt."""
    try:
        try:
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # ignored under nohup
                signal.signal(signal.SIGINT, _interrupt)
            from pramfs.system import surroundings

            surroundings.settle()
            return command()
        finally:
            # The command is done: ignore interrupts while Python ends.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename == _LOADER:
            os._exit(_EXIT_INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
