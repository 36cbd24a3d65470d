"""The resource limits that a process inherits: raised as far as possible, and named when they are too low."""

import contextlib
import errno
import resource
from collections.abc import Iterator

from pramfs.errors import SystemFault, words_of

_LIMITS = (
    *(resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_DATA),
    *(resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE),
)
# What these limits end is the mount, and what was not saved with it.
_LIMITS_OF_CALLERS = (resource.RLIMIT_FSIZE, resource.RLIMIT_CPU)
# A daemon has some twenty files open. As many as there may be would cost those who count to it.
_FILES_NEEDED, _FILES_OPEN = 64, 4096
# What is left of the processor time for the last save, if nothing was to be raised.
_CPU_FOR_SAVE_S = 10

_NAMED_BY = {
    errno.EMFILE: "open files (ulimit -n, LimitNOFILE=)",
    errno.ENOMEM: "memory (ulimit -v and -d, LimitAS=, MemoryMax=)",
    errno.EAGAIN: "processes (ulimit -u, LimitNPROC=, TasksMax=)",
}


def raise_all() -> None:
    """Raise the soft limits to the hard ones; that of open files to what is ever needed."""
    for limit in _LIMITS:
        soft, hard = resource.getrlimit(limit)
        wanted = hard
        if limit == resource.RLIMIT_NOFILE:
            wanted = _FILES_OPEN if hard == resource.RLIM_INFINITY else min(hard, _FILES_OPEN)
            if soft == resource.RLIM_INFINITY or soft >= wanted:
                continue
        _set(limit, wanted, hard)


def lift_for_daemon() -> None:
    """Lift the limits that would end a daemon. Without the right to do so, let SIGXCPU come in good time."""
    for limit in _LIMITS_OF_CALLERS:
        _set(limit, resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard != resource.RLIM_INFINITY:
        _set(resource.RLIMIT_CPU, hard - min(_CPU_FOR_SAVE_S, hard // 2), hard)


@contextlib.contextmanager
def named() -> Iterator[None]:
    """Raise SystemFault with the name of the limit where one is too low for what is done in the block."""
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < _FILES_NEEDED:
            raise OSError(errno.EMFILE, f"only {hard} open files allowed, {_FILES_NEEDED} needed")
        yield
    except (OSError, MemoryError) as exc:
        number = errno.ENOMEM if isinstance(exc, MemoryError) else exc.errno
        if number not in _NAMED_BY:
            raise
        limit = _NAMED_BY[number]
        raise SystemFault(f"cannot mount: {words_of(exc)}; raise the limit of {limit}") from exc


def _set(limit: int, soft: int, hard: int) -> None:
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(limit, (soft, hard))
