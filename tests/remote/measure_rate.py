"""Measure how fast a tree goes to an object store and comes back, against a plain tool of the same library.

    .venv/bin/python -m tests.remote.measure_rate [MIB [ROUNDS]]

Takes root. The store is Swift on this machine, whose processes share its processors with what is measured.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mounted.harness import MIB, Volume
from tests.remote import real_places
from tests.remote.real_places import RemotePlace

PLAIN = """\
import sys, s3fs
config = dict.fromkeys(("request_checksum_calculation", "response_checksum_validation"), "when_required")
getattr(s3fs.S3FileSystem(config_kwargs=config), sys.argv[1])(*sys.argv[2:])
"""


def main() -> None:
    """Print the medians of alternating rounds."""
    size, rounds = (int(word) for word in (sys.argv[1:] + ["1024", "5"][len(sys.argv) - 1 :]))
    memory = Path(tempfile.mkdtemp(prefix="pramfs-rate-", dir="/dev/shm"))
    disk = Path(tempfile.mkdtemp(prefix="pramfs-rate-"))
    try:
        with (
            real_places.running_servers(disk) as servers,
            real_places.bucket(servers, "rate", disk) as place,
        ):
            # Straight to the store: the link of the tests is no part of what is measured.
            place.environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{servers.swift.port}"
            seconds = _measured(place, memory, size, rounds)
    finally:
        shutil.rmtree(memory)
        shutil.rmtree(disk)
    for way, plain in (("send", "put"), ("receive", "get")):
        ratio = statistics.median(
            ours / its for ours, its in zip(seconds[way], seconds[plain], strict=True)
        )
        told = " ".join(
            f"{name} {statistics.median(seconds[name]):.2f} s," for name in (way, plain)
        )
        print(f"{size} MiB: {told} ratio {ratio:.2f} (median of {rounds} alternating rounds)")


def _measured(place: RemotePlace, memory: Path, size: int, rounds: int) -> dict[str, list[float]]:
    volume = Volume(memory, "image", f"{size + 256}M")
    plain, copy, other = (memory / name for name in ("plain", "copy", "other"))
    with plain.open("wb") as file:
        for _ in range(size):
            file.write(os.urandom(MIB))
    try:
        shutil.copy(plain, volume.mount())
        volume.umount()
    finally:
        volume.finish()
    there = f"{place.url}/plain".removeprefix("s3://")
    commands: dict[str, list[str | Path]] = {
        "put": ["-c", PLAIN, "put_file", plain, there],
        "send": ["-m", "pramfs", "send", "--to", place.url, volume.image],
        "get": ["-c", PLAIN, "get_file", there, copy],
        "receive": [
            "-m",
            "pramfs",
            "receive",
            "--from",
            place.url,
            "--size",
            f"{2 * size}M",
            other,
        ],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, words in commands.items():
            start_s = time.monotonic()
            environment = {**os.environ, **place.environment}
            subprocess.run(
                [sys.executable, *words], env=environment, check=True, stderr=subprocess.DEVNULL
            )
            seconds[name].append(time.monotonic() - start_s)
        for made in (copy, other):
            made.unlink()
        for name in place.files.names():
            place.files.remove(name)
    return seconds


if __name__ == "__main__":
    main()
