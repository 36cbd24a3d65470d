"""The processes worth restoring. Run in the guest: workload.py memory MIB | family | file DIRECTORY.

Each counts in steps of a hundredth of a second, and on SIGUSR1 leaves what it knows of itself as JSON in
/run/workload/PID: its count, and whatever must be the same after a restore. The first report comes by
itself, when the process is ready for the signal.
"""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

REPORTS = Path("/run/workload")
STEP_SECONDS = 0.01


def main() -> None:
    """Become the workload that the arguments name; never returns."""
    kinds: dict[str, Callable[..., None]]
    kinds = {"memory": hold_memory, "family": be_a_family, "file": write_a_file}
    kinds[sys.argv[1]](*sys.argv[2:])


def hold_memory(mebibytes: str) -> None:
    """Hold random memory."""
    memory = bytearray(os.urandom(int(mebibytes) << 20))
    count_for_ever(lambda: {"sha256": hashlib.sha256(memory).hexdigest()})


def be_a_family() -> None:
    """Be a parent whose child counts into a pipe for another child, which must miss no number."""
    reading, writing = os.pipe()
    talker = os.fork()
    if talker == 0:
        os.close(reading)
        count_for_ever(dict, lambda count: os.write(writing, count.to_bytes(8, "little")))
    listener = os.fork()
    if listener == 0:
        os.close(writing)
        listen(reading)
    os.close(reading)
    os.close(writing)
    count_for_ever(lambda: {"children": [talker, listener]})


def listen(reading: int) -> None:
    """Read numbers from a pipe and compare each with the one that should come."""
    state = {"heard": 0, "gaps": 0}
    report_on_signal(lambda: dict(state))
    while True:
        number = int.from_bytes(os.read(reading, 8), "little")
        state["gaps"] += number != state["heard"] + 1
        state["heard"] = number


def write_a_file(directory: str) -> None:
    """Write lines into an open file, from a working directory that is no mount of ours."""
    os.chdir(directory)
    with Path("lines").open("w", encoding="ascii", buffering=1) as lines:
        count_for_ever(
            lambda: {"directory": str(Path.cwd()), "offset": lines.tell()},
            lambda count: lines.write(f"{count}\n"),
        )


def count_for_ever(
    state: Callable[[], Mapping[str, object]], step: Callable[[int], object] = lambda count: None
) -> None:
    """Count, and do `step` at each number; reports come between two steps, never within one."""
    count = 0
    report_on_signal(lambda: {"count": count, **state()})
    while True:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        count += 1
        step(count)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        time.sleep(STEP_SECONDS)


def report_on_signal(state: Callable[[], Mapping[str, object]]) -> None:
    """Leave the state in this process's report, now and at every SIGUSR1."""

    def report(number: int, frame: FrameType | None) -> None:
        path = REPORTS / str(os.getpid())
        REPORTS.mkdir(exist_ok=True)
        path.with_suffix(".new").write_text(json.dumps({"pid": os.getpid(), **state()}))
        path.with_suffix(".new").rename(path)

    signal.signal(signal.SIGUSR1, report)
    report(signal.SIGUSR1, None)


if __name__ == "__main__":
    main()
