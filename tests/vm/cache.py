"""Artefacts that take long to build, kept outside the checkout and built anew when an input changes.

They are in $XDG_CACHE_HOME/pramfs (default: ~/.cache/pramfs), each in a directory that is named by its
kind and a digest of what went into it. A build that is interrupted leaves nothing that would be used.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_DIGEST_LENGTH = 16


def directory() -> Path:
    """The cache, made if needed."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base, "pramfs")
    path.mkdir(parents=True, exist_ok=True)
    return path


def digest(inputs: Iterable[Path | str]) -> str:
    """A name for the contents of these files, and for these strings, in this order."""
    total = hashlib.sha256()
    for thing in inputs:
        name, content = (
            (thing.name, thing.read_bytes()) if isinstance(thing, Path) else ("", thing.encode())
        )
        total.update(f"{name} {len(content)}\n".encode())
        total.update(content)
    return total.hexdigest()[:_DIGEST_LENGTH]


def has(kind: str, inputs: Iterable[Path | str]) -> bool:
    """Return whether that is built already."""
    return (directory() / f"{kind}-{digest(inputs)}").is_dir()


def artefact(kind: str, inputs: Iterable[Path | str], build: Callable[[Path], None]) -> Path:
    """The directory of this kind for these inputs; `build` fills it if it is not there yet.

    It stays there as long as this process lives. Others of the same kind, for other inputs, are removed
    when nobody uses them: they would only pile up.
    """
    with _locked(kind):
        wanted = directory() / f"{kind}-{digest(inputs)}"
        for unfinished in directory().glob(f"building-{kind}.*"):
            shutil.rmtree(unfinished)  # by a run that was killed: the lock is ours
        if not wanted.is_dir():
            with tempfile.TemporaryDirectory(
                prefix=f"building-{kind}.", dir=directory()
            ) as temporary:
                result = Path(temporary, "result")
                result.mkdir()
                build(result)
                result.rename(wanted)
        # Never closed: the lock ends with the process.
        fcntl.flock(os.open(wanted, os.O_RDONLY | os.O_CLOEXEC), fcntl.LOCK_SH)
        for old in directory().glob(f"{kind}-*"):
            if old != wanted:
                _remove_unused(old, directory() / f"building-{kind}.old")
        return wanted


def _remove_unused(old: Path, aside: Path) -> None:
    """Remove an artefact, unless a run of another checkout uses it now.

    It is moved aside first: half of one under its own name would be used.
    """
    descriptor = os.open(old, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        old.rename(aside)
        shutil.rmtree(aside)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


@contextmanager
def _locked(kind: str) -> Iterator[None]:
    """One build of a kind at a time: several runs may have been started."""
    with (directory() / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
