"""Wears a directory of files down: makes, removes, cuts and overwrites them, by a seed and nothing else.

Run on the guest and on the host: wear.py wear SEED DIRECTORY... | compare DIRECTORY DIRECTORY
"""

import hashlib
import random
import sys
from collections.abc import Callable
from pathlib import Path

SMALL_FILES = 120
SMALL_BYTES_MAX = 12 << 10
LARGE_FILES = 3
LARGE_BYTES_MAX = 1 << 20


def main() -> None:
    """Do what the arguments say."""
    actions: dict[str, Callable[..., None]] = {"wear": wear_all, "compare": compare}
    actions[sys.argv[1]](*sys.argv[2:])


def wear_all(seed: str, *directories: str) -> None:
    """Do the same in each of the directories, which are alike."""
    for directory in directories:
        wear(Path(directory), seed)


def wear(directory: Path, seed: str) -> None:
    """Add files, remove every second of all, then cut or overwrite a part of each that is left."""
    chance = random.Random(seed)
    for number in range(SMALL_FILES + LARGE_FILES):
        most = SMALL_BYTES_MAX if number < SMALL_FILES else LARGE_BYTES_MAX
        name = f"{number:03}-of-{seed}"
        (directory / name).write_bytes(chance.randbytes(chance.randint(most // 12, most)))
    files = sorted(directory.iterdir())
    for file in files[::2]:
        file.unlink()
    for file in files[1::2]:
        with file.open("r+b") as content:
            size = file.stat().st_size
            if chance.random() < 0.5:
                content.truncate(chance.randint(0, size + size // 4))
            else:
                content.seek(chance.randint(0, size))
                content.write(chance.randbytes(chance.randint(1, size // 2 + 1)))


def compare(one: str, other: str) -> None:
    """Exit with the names of the files that are not the same in both, if any."""
    sums, expected = digests(Path(one)), digests(Path(other))
    differing = [name for name in sums | expected if sums.get(name) != expected.get(name)]
    if differing or not sums:
        sys.exit(f"{len(differing)} of {len(sums)} files differ: {' '.join(sorted(differing))}")


def digests(directory: Path) -> dict[str, str]:
    """The SHA-256 of each file, by name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()
    }


if __name__ == "__main__":
    main()
