"""Go to the background and leave nobody in the dark: the parent exits once the child has said how it is.

The child reports one exit code through a pipe. A child that dies without a word is a failure too.
"""

import os
import sys
from collections.abc import Callable

from pramfs.errors import EXIT_SYSTEM


def run_in_background(body: Callable[[Callable[[int], None]], int]) -> int:
    """Run `body` in a child; return in the parent what the child reports, at the latest its end.

    `body` is called in the child with a function that reports an exit code and then lets go of the
    terminal. What `body` returns is the exit code of the child.
    """
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(write_end)
        return _await_report(read_end, child)
    os.close(read_end)
    os.setsid()
    reported = False

    def report(code: int) -> None:
        nonlocal reported
        if not reported:
            reported = True
            os.write(write_end, bytes((code,)))
            os.close(write_end)
            _leave_terminal()

    code = EXIT_SYSTEM
    try:
        code = body(report)
    finally:
        report(code)
        sys.stderr.flush()
        # Not sys.exit: the parent's cleanups are not the child's to run.
        os._exit(code)


def _await_report(read_end: int, child: int) -> int:
    with os.fdopen(read_end, "rb") as pipe:
        word = pipe.read(1)
    if word:
        return word[0]
    _, status = os.waitpid(child, 0)
    print(f"pramfs: the daemon died while it started (wait status {status})", file=sys.stderr)
    return EXIT_SYSTEM


def _leave_terminal() -> None:
    """Keep no directory busy and no terminal open."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
