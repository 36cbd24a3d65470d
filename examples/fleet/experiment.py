"""Check the model against receivers that are real: `python -m examples.fleet.experiment`.

4 and 8 `pramfs receive` take a stream of 24 MiB of pages at once, from a process that gives all of them
together 12 MB/s, and every second one no more than 1 MB/s, and they begin a second apart. It prints when
they end, and when they do so in the model. Takes 1 GiB on /dev/shm, and root.
"""

import fcntl
import math
import os
import subprocess
import sys
import tempfile
import termios
import time
from functools import partial
from pathlib import Path

from examples.fleet.flows import Link, Route, Simulation

MB = 1_000_000
SIZE = 24 << 20
PRAMFS = Path(sys.prefix, "bin", "pramfs")
SHARED, SLOW = 12.0 * MB, 1.0 * MB  # bytes a second
APART = 1.0  # seconds
PIECE = 1 << 16
STEP = 0.004  # seconds
LATE = 1.0  # that the process which gives may be, seconds: it catches up
FIRST = 256  # bytes, fewer than a header has


class Receiver:
    """A `pramfs receive`, and what of the stream it has."""

    def __init__(self, image: Path, rate: float, begins: float) -> None:
        self.rate, self.begins = rate, begins
        self.at = 0
        words = [str(PRAMFS), "receive", f"--size={SIZE * 3 // 2}", str(image)]
        self.process = subprocess.Popen(
            words, bufsize=0, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdin is not None
        self.pipe = self.process.stdin
        os.set_blocking(self.pipe.fileno(), False)

    def wait_until_it_reads(self, stream: bytes) -> None:
        """Return when it takes what it is given: the start of a Python is not what is compared."""
        self.at = self.pipe.write(stream[:FIRST])
        while fcntl.ioctl(self.pipe.fileno(), termios.FIONREAD, bytes(4)) != bytes(4):
            time.sleep(STEP)

    def give(self, stream: memoryview, size: int) -> int:
        """Write up to so many bytes; return how many it took."""
        try:
            taken = os.write(self.pipe.fileno(), stream[self.at : self.at + size])
        except BlockingIOError:
            return 0
        self.at += taken
        if self.at == len(stream):
            self.pipe.close()
        return taken

    def wants(self, now: float, total: int) -> int:
        """Return how many bytes it may have by now and has not."""
        if now < self.begins:
            return 0
        return int(min(total, self.rate * (now - self.begins))) - self.at


def really(stream: bytes, rates: list[float], directory: Path) -> list[float]:
    """Serve receivers of these rates; return when each had all, in seconds."""
    receivers = [
        Receiver(directory / f"image{number}", rate, APART * number)
        for number, rate in enumerate(rates)
    ]
    for receiver in receivers:
        receiver.wait_until_it_reads(stream)
    ends: dict[Receiver, float] = {}
    began, budget, last = time.monotonic(), 0.0, 0.0
    with memoryview(stream) as view:
        while len(ends) < len(receivers):
            time.sleep(STEP)
            now = time.monotonic() - began
            budget = min(budget + SHARED * (now - last), SHARED * LATE)
            last = now
            budget = _give_in_turn(receivers, view, now, budget)
            for receiver in receivers:
                if receiver.at == len(view):
                    ends.setdefault(receiver, now)
    for receiver in receivers:
        if receiver.process.wait():
            raise ChildProcessError("a receiver has failed")
    return [ends[receiver] for receiver in receivers]


def _give_in_turn(
    receivers: list[Receiver], stream: memoryview, now: float, budget: float
) -> float:
    """Give all that want some the same, until nothing is left to give; return what is."""
    while True:
        want = [each for each in receivers if each.wants(now, len(stream)) > 0]
        share = min(PIECE, int(budget / max(1, len(want))))
        given = sum(each.give(stream, min(share, each.wants(now, len(stream)))) for each in want)
        if not given:
            return budget
        budget -= given


def predicted(size: int, rates: list[float]) -> list[float]:
    """Return what the model says."""
    simulation, link = Simulation(), Link("shared", SHARED)
    ends = [0.0] * len(rates)

    def begin(number: int, rate: float) -> None:
        def done() -> None:
            ends[number] = simulation.now

        simulation.transfer(Route((link,), rate, "its own"), size, done)

    for number, rate in enumerate(rates):
        simulation.after(APART * number, partial(begin, number, rate))
    simulation.run()
    return ends


def main() -> None:
    """Run both, and print."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="pramfs-fleet.") as name:
        directory = Path(name)
        stream = _stream(directory)
        print(
            "| receivers | its own limit | ends, model | ends, really |\n| --- | --- | --- | --- |"
        )
        for count in (4, 8):
            rates = [SLOW if number % 2 else math.inf for number in range(count)]
            model, real = predicted(len(stream), rates), really(stream, rates, directory)
            for number, rate in enumerate(rates):
                limit = f"{rate / MB:.0f} MB/s" if rate < math.inf else "none"
                print(
                    f"| {number + 1} of {count} | {limit} | {model[number]:.2f} s | {real[number]:.2f} s |"
                )
            for image in directory.glob("image*"):
                image.unlink()


def _stream(directory: Path) -> bytes:
    """Return a stream of random pages."""
    root, image = directory / "mnt", directory / "sent"
    root.mkdir()
    _run("mount", "-o", f"size={SIZE * 3 // 2}", image, root)
    (root / "dump").write_bytes(os.urandom(SIZE))
    _run("umount", root)
    return _run("send", image)


def _run(*words: str | Path) -> bytes:
    return subprocess.run([PRAMFS, *words], check=True, capture_output=True).stdout


if __name__ == "__main__":
    main()
