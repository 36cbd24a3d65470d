"""Run a callable in a forked child, optionally as another user.

A thread would not do, because it cannot change its user without all others.
"""

import errno
import os
import signal
import struct
from collections.abc import Callable
from typing import NoReturn

from pramfs.errors import posix_error

_ERRNO = struct.Struct("=i")
_THREADS = "/proc/self/task"


def require_single_thread() -> None:
    """Raise RuntimeError if this process, which is about to fork, has more than one thread.

    A forked child inherits the locks that other threads hold, but not the threads that would release them.
    """
    threads = len(os.listdir(_THREADS))
    if threads > 1:
        raise RuntimeError(f"about to fork beside {threads - 1} other threads")


class ForkedCall:
    """A call of `act` in a child, as `user` (uid and gid) if given. Can be passed to select(2)."""

    def __init__(self, act: Callable[[], bytes], user: tuple[int, int] | None = None) -> None:
        self._pipe, write_end = os.pipe()
        self._child = os.fork()
        if not self._child:
            _run(act, user, write_end)
        os.close(write_end)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the child is done."""
        return self._pipe

    def result(self) -> bytes:
        """Return what `act` has returned. Raises the OSError that it raised."""
        with os.fdopen(self._pipe, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(self._child, 0)
        if len(answer) < _ERRNO.size:
            raise ChildProcessError(errno.ECHILD, "the process that was to do it was killed")
        (number,) = _ERRNO.unpack_from(answer)
        if number:
            raise posix_error(number)
        return answer[_ERRNO.size :]


def _run(act: Callable[[], bytes], user: tuple[int, int] | None, write_end: int) -> NoReturn:
    answer = b""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # only the parent reports an interrupt
        if user is not None:
            uid, gid = user
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        answer = _ERRNO.pack(0) + act()
    except OSError as exc:
        answer = _ERRNO.pack(exc.errno or errno.EIO)
    finally:
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)  # not sys.exit, which would run the clean-up handlers of the parent
