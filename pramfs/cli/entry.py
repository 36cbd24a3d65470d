"""The entry points of the programs, and their end on Ctrl-C: quiet, with an exit code of its own.

Python raises KeyboardInterrupt wherever it happens to be. Commands clean up when they catch it, but a module
that is being imported may lose it or turn it into another error, and at the very start and end nothing
catches it. So until a command begins, SIGINT ends the process, as it does others. Nothing is imported before
that is so: `_signal` is a part of Python that needs no loading, `signal` loads others.
"""

import _signal  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_EXIT_INTERRUPTED = 8  # as in `errors`, which is not loaded yet
_LOADER = "<frozen importlib._bootstrap>"


def pramfs() -> int:
    """Run the command pramfs."""

    def command() -> "Callable[[], int]":
        from pramfs.cli.main import main

        return main

    return _interruptible(command)


def mount_helper() -> int:
    """Run the command mount.pramfs, also called mount.fuse.pramfs."""

    def command() -> "Callable[[], int]":
        from pramfs.cli import mount_helpers

        return mount_helpers.mount_helper

    return _interruptible(command)


def umount_helper() -> int:
    """Run the command umount.pramfs, also called umount.fuse.pramfs."""

    def command() -> "Callable[[], int]":
        from pramfs.cli import mount_helpers

        return mount_helpers.umount_helper

    return _interruptible(command)


def _interruptible(load: "Callable[[], Callable[[], int]]") -> int:
    """Run the command that `load` returns, and return its exit code, or that of an interrupt."""
    is_heeded = _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN  # it is ignored under nohup
    if is_heeded:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from pramfs.system import surroundings

    surroundings.settle()
    command = load()
    try:
        try:
            if is_heeded:
                _signal.signal(_signal.SIGINT, _interrupt)
            return command()
        finally:
            # The command is done: ignore interrupts while Python ends.
            _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGINT})
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def _interrupt(number: int, frame: "FrameType | None") -> None:
    while frame is not None:
        if frame.f_code.co_filename == _LOADER:
            import os

            os._exit(_EXIT_INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
