"""Run a callable in a forked child, optionally as another user.

A thread would not do, because it cannot change its user without all others.
"""

import contextlib
import errno
import os
import signal
import struct
from collections.abc import Callable, Iterator
from typing import NoReturn

from pramfs.errors import PramError, SystemFault, posix_error
from pramfs.system import oom_score

# What the child writes first: 0 before the answer, an errno, or one of these before the text of an error.
# No pickled exception: the child may run as a user who can trace it, and the parent may be root.
_VERDICT = struct.Struct("=i")
_PRAM_ERROR = -1
_UNEXPECTED = -2
_ANY_TEXT = ("utf-8", "surrogatepass")  # file names in it may be any bytes
_STOPPING = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_THREADS = "/proc/self/task"


def require_single_thread() -> None:
    """Raise RuntimeError if this process, which is about to fork, has more than one thread.

    A forked child inherits the locks that other threads hold, but not the threads that would release them.
    """
    threads = len(os.listdir(_THREADS))
    if threads > 1:
        raise RuntimeError(f"about to fork beside {threads - 1} other threads")


@contextlib.contextmanager
def interrupt_held() -> Iterator[None]:
    """Hold SIGINT back during the block, where Python would lose the KeyboardInterrupt.

    It ignores exceptions in the hooks that it runs around os.fork(), and some while it imports modules.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class ForkedCall:
    """A call of `act` in a child, as `user` (uid and gid) if given. Can be passed to select(2)."""

    def __init__(self, act: Callable[[], bytes], user: tuple[int, int] | None = None) -> None:
        self._pipe, write_end = os.pipe()
        with interrupt_held():
            self._child = os.fork()
        if not self._child:
            _run(act, user, write_end)
        os.close(write_end)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the child is done."""
        return self._pipe

    def abandon(self) -> None:
        """Kill the child and forget it, without waiting: it may be held up in the kernel."""
        os.kill(self._child, signal.SIGKILL)
        os.close(self._pipe)

    def result(self) -> bytes:
        """Return what `act` returned.

        Raises its OSError or PramError (as a plain one); SystemFault for any other exception, with its
        type and text; ChildProcessError if the child was killed.
        """
        with os.fdopen(self._pipe, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(self._child, 0)
        if len(answer) < _VERDICT.size:
            raise ChildProcessError(errno.ECHILD, "the process that was to do it was killed")
        (verdict,) = _VERDICT.unpack_from(answer)
        answer = answer[_VERDICT.size :]
        if verdict > 0:
            raise posix_error(verdict)
        if verdict < 0:
            kind = PramError if verdict == _PRAM_ERROR else SystemFault
            raise kind(answer.decode(*_ANY_TEXT))
        return answer


def _run(act: Callable[[], bytes], user: tuple[int, int] | None, write_end: int) -> NoReturn:
    answer = b""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # only the parent reports an interrupt
        for number in _STOPPING:  # the call goes on while the parent is stopped
            signal.signal(number, signal.SIG_IGN)
        oom_score.be_like_others()
        # The call may be held up after the parent has ended, and nobody is to wait for its end of a pipe.
        for stream in {0, 1, 2} - {write_end}:
            with contextlib.suppress(OSError):
                os.close(stream)
        if user is not None:
            uid, gid = user
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        answer = _VERDICT.pack(0) + act()
    except OSError as exc:
        answer = _VERDICT.pack(exc.errno or errno.EIO)
    except MemoryError:
        answer = _VERDICT.pack(errno.ENOMEM)
    except PramError as exc:
        answer = _VERDICT.pack(_PRAM_ERROR) + str(exc).encode(*_ANY_TEXT)
    except BaseException as exc:  # noqa: BLE001 - the parent reports any error
        answer = _VERDICT.pack(_UNEXPECTED) + f"internal error: {exc!r}".encode(*_ANY_TEXT)
    finally:
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)  # not sys.exit, which would run the clean-up handlers of the parent
