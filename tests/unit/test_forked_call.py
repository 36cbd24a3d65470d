"""A child is forked by a process of one thread only, and what it fails with is reported as what it is."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from pramfs.errors import NodeBusy, PramError, SystemFault
from pramfs.system.forked_call import ForkedCall

_BESIDE_A_THREAD = """
import threading
from pramfs.daemon.daemonize import fork_daemon
from pramfs.system.forked_call import require_single_thread
require_single_thread()
threading.Thread(target=threading.Event().wait, daemon=True).start()
for fork in (require_single_thread, fork_daemon):
    try:
        fork()
    except RuntimeError as exc:
        assert "beside 1 other" in str(exc)
    else:
        raise AssertionError(fork)
"""


# An interrupt that comes within os.fork(), between two of the hooks that Python calls there.
_INTERRUPTED = """
import os, signal
os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGINT))
from pramfs.pram.verify import _Helper, _Queue
from pramfs.system.forked_call import ForkedCall
from pramfs.pram.links import Chain
try:
    {fork}
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    "fork",
    ["ForkedCall(lambda: b'')", "_Helper(None, Chain(), _Queue([]), None)"],
    ids=["call", "verification"],
)
def test_an_interrupt_while_a_child_is_forked_is_not_lost(fork: str) -> None:
    command = [sys.executable, "-c", _INTERRUPTED.format(fork=fork)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("interrupted\n", "")


def test_a_daemon_is_not_forked_beside_a_thread() -> None:
    subprocess.run([sys.executable, "-c", _BESIDE_A_THREAD], check=True)


def failing(error: BaseException) -> ForkedCall:
    def act() -> bytes:
        raise error

    return ForkedCall(act)


def test_a_child_returns_its_answer() -> None:
    assert ForkedCall(lambda: b"answer").result() == b"answer"
    assert ForkedCall(lambda: b"").result() == b""


@pytest.mark.parametrize(
    ("error", "number"),
    [(PermissionError(errno.EACCES, "no"), errno.EACCES), (MemoryError(), errno.ENOMEM)],
)
def test_an_error_of_the_system_is_raised_with_its_errno(error: Exception, number: int) -> None:
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        failing(error).result()
    assert caught.value.errno == number


def test_an_error_of_pramfs_is_raised_with_its_text() -> None:
    with pytest.raises(PramError, match=r"^node 'a\udcff' is being saved or loaded$"):
        failing(NodeBusy("a\udcff")).result()


@pytest.mark.parametrize("error", [ValueError("what is wrong"), SystemExit("what is wrong")])
def test_any_other_exception_is_not_called_a_killed_process(error: BaseException) -> None:
    kind = type(error).__name__
    with pytest.raises(SystemFault, match=rf"^internal error: {kind}\('what is wrong'\)$"):
        failing(error).result()


def test_a_child_that_was_killed_is_reported_as_killed() -> None:
    def act() -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b""

    with pytest.raises(ChildProcessError, match="was killed"):
        ForkedCall(act).result()
