"""A child is forked by a process of one thread only."""

import subprocess
import sys

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


def test_a_daemon_is_not_forked_beside_a_thread() -> None:
    subprocess.run([sys.executable, "-c", _BESIDE_A_THREAD], check=True)
