"""A dump of stacks shows all threads and tasks, and disturbs none of them."""

import itertools
import signal
import subprocess
import sys

_DUMPS = 300
_LAST_LINE = "  none: no request is served any more, or none yet\n"

# A thread calls and returns all the time; who follows its frames meanwhile must not fall.
_BUSY = """
import os, select, sys, threading
from pramfs.daemon.stack_dump import StackDumps

def work(depth):
    return depth and work(depth - 1) + len(str(depth))

def repeat():
    while True:
        work(20)

StackDumps(1).start_thread()
threading.Thread(target=repeat, daemon=True, name="busy").start()
print("begun", flush=True)
while not select.select([sys.stdin], [], [], 0.001)[0]:
    pass
print("done", flush=True)
os._exit(0)
"""


def test_many_dumps_of_a_busy_process_leave_it_alone() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        for _ in range(_DUMPS):
            process.send_signal(signal.SIGUSR1)
            dump = set(itertools.takewhile(lambda line: line != _LAST_LINE, process.stdout))
            assert "  busy (most recent call first)\n" in dump
            assert "  MainThread (most recent call first)\n" in dump
        rest, _ = process.communicate()
    assert (process.returncode, rest) == (0, "done\n")
