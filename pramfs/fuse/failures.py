"""What a handler's exception means: an errno for the caller, and a line in the log where it is news."""

import errno
import logging
from collections.abc import Callable

from pramfs.errors import PramError

log = logging.getLogger("pramfs")


def errno_of(exc: Exception, handler: str, on_internal_error: Callable[[], None]) -> int:
    """Return the errno that answers a request whose handler raised `exc`, and log what must be known.

    Nothing that a handler raises ends the mount.
    """
    if isinstance(exc, OSError):
        return exc.errno or errno.EIO
    if isinstance(exc, MemoryError):
        log.error("out of memory in %s", handler)
        on_internal_error()  # the operation may be half done
        return errno.ENOMEM
    if isinstance(exc, PramError):
        log.error("%s", exc)
    else:
        log.error("internal error in %s", handler, exc_info=exc)
        on_internal_error()
    return errno.EIO
