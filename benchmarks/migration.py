"""Trees on their way: send and receive against two cats with a pipe between them."""

import shlex
from pathlib import Path

from benchmarks.bench import MIB, Bench
from benchmarks.commands import run, timed
from benchmarks.figures import PRAMFS, Row, cost

_CATS = "two cats"
_SEND, _BOTH = "send to a file", "send to receive, published"


def migration(bench: Bench) -> list[Row]:
    """Send one big file on tmpfs to a file, and to another image; copy as much through a pipe."""
    size = bench.scale.sent_bytes
    plain, copy, other = (bench.work / name for name in ("plain", "copy", "other"))
    with bench.pramfs(size + 256 * MIB).image() as image:
        image.mount()
        bench.client("write", image.mountpoint / "file", size, MIB)
        run("cp", image.mountpoint / "file", plain)
        image.unmount()
        pramfs = f"{shlex.quote(bench.python)} -m pramfs"

        def cats() -> dict[str, float]:
            seconds = _piped(f"cat {plain}", f"cat > {copy}", copy)
            return {_SEND: seconds, _BOTH: seconds}

        def ours() -> dict[str, float]:
            send = f"{pramfs} send {image.path}"
            receive = f"{pramfs} receive --size {2 * size} {other}"
            return {
                _SEND: _piped(send, f"cat > {copy}", copy),
                _BOTH: _piped(send, receive, other),
            }

        samples = bench.alternate({PRAMFS: ours, _CATS: cats})
    plain.unlink(missing_ok=True)
    return [
        Row(_SEND, samples.get(_SEND, {}), targets=[cost(_CATS, 1.5)]),
        Row(_BOTH, samples.get(_BOTH, {}), targets=[cost(_CATS, 2.5)]),
    ]


def _piped(first: str, second: str, written: Path) -> float:
    """Return the seconds that two commands with a pipe between them take; remove what they have written."""
    try:
        return timed("bash", "-o", "pipefail", "-c", f"{first} | {second}")
    finally:
        written.unlink(missing_ok=True)
