"""Restore what is dumped in a mount, once: each tree of processes, the last that was dumped first."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pramfs.checkpoint import criu, held, manifest, units
from pramfs.checkpoint.manifest import CONSUMED, PENDING, Dumped, Manifest
from pramfs.control import client
from pramfs.errors import PramError
from pramfs.system import mountinfo

_RUN = Path("/run/pramfs-restore")  # pid files
_CGROUPS = Path("/sys/fs/cgroup")
_INTO_CGROUP = 'echo $$ >"$0" && exec "$@"'


@dataclass(frozen=True, slots=True)
class Failed:
    """What could not be restored. Its dump is kept."""

    name: str
    reason: str
    images: str
    log: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of the dumps."""

    restored: tuple[str, ...] = ()
    failed: tuple[Failed, ...] = ()
    started: tuple[str, ...] = ()  # services that were started afresh: there is no dump of them

    def lines(self) -> Iterator[str]:
        """Yield it as lines of text."""
        for name in self.restored:
            yield f"{name}: restored"
        for name in self.started:
            yield f"{name}: no dump of it waits: started afresh"
        for one in self.failed:
            yield f"{one.name}: cannot be restored: {one.reason}; kept in {one.images}, log: {one.log}"


def restore_held(mountpoint: Path | None) -> Outcome:
    """Restore what is dumped in the mount, and release all that was held for it.

    The mount is by default the one that was dumped into. If it is not there, services that were held are
    started afresh. Raises PramError.
    """
    waiting = held.read()
    if mountpoint is None:
        mountpoint = None if waiting is None else Path(waiting.mountpoint)
    if mountpoint is None:
        return Outcome()
    if waiting is not None and not _is_same(mountpoint, Path(waiting.mountpoint)):
        waiting = None  # it waits for another mount
    mounted = mountinfo.mount_at(mountpoint) is not None
    if not mounted and waiting is None:
        mountinfo.require_mount(mountpoint)
    try:
        outcome = restore(mountpoint) if mounted else Outcome()
    except BaseException:
        if waiting is not None:
            waiting.release()
        raise
    if waiting is None:
        return outcome
    told = {*outcome.restored, *(one.name for one in outcome.failed)}
    afresh = tuple(unit for unit in waiting.units if unit not in told)
    try:
        waiting.release()
    finally:
        units.start(afresh)
    return Outcome(outcome.restored, outcome.failed, afresh)


def _is_same(mountpoint: Path, other: Path) -> bool:
    return os.path.realpath(mountpoint) == os.path.realpath(other)


def restore(mountpoint: Path) -> Outcome:
    """Restore what is dumped in the mount, unless that was done before. Raises PramError.

    That it is done is saved first: an interruption may lose a process, but never restores it twice.
    """
    if manifest.read(mountpoint) is None:
        return Outcome()
    with manifest.locked(mountpoint):
        return _restore_pending(mountpoint)


def _restore_pending(mountpoint: Path) -> Outcome:
    waiting = manifest.read(mountpoint)
    if waiting is None or waiting.state != PENDING:
        return Outcome()
    manifest.write(mountpoint, Manifest(CONSUMED, waiting.dumped))
    client.request_save(mountpoint)
    restored: list[str] = []
    failed: list[Failed] = []
    kept: list[Dumped] = []
    for one in reversed(waiting.dumped):
        images = manifest.directory(mountpoint) / one.name
        log = images / "restore.log"
        try:
            _restore(one, images, log)
        except (PramError, OSError) as exc:
            reason = criu.reason(log) if log.exists() else str(exc)
            failed.append(Failed(one.name, reason, str(images), str(log)))
            kept.append(one)
        else:
            restored.append(one.name)
            shutil.rmtree(images, ignore_errors=True)
    units.clear([one.unit for one in waiting.dumped if one.unit])
    manifest.write(mountpoint, Manifest(CONSUMED, tuple(reversed(kept))))
    return Outcome(tuple(restored), tuple(failed))


def image_of(mountpoint: Path) -> Path:
    """Return the image that is mounted. Raises PramError if none is."""
    return Path(mountinfo.require_mount(mountpoint).image)


def mount_again(image: Path, mountpoint: Path, options: str) -> None:
    """Mount the image, unless it is mounted. Raises PramError."""
    if mountinfo.mount_at(mountpoint) is not None:
        return
    words = ["mount", *(["-o", options] if options else []), str(image), str(mountpoint)]
    done = subprocess.run(
        [sys.executable, "-m", "pramfs", *words], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise PramError(" ".join(done.stderr.split()))


def _restore(one: Dumped, images: Path, log: Path) -> None:
    """Restore one tree where it belongs: its service, its cgroup, or a scope of its own."""
    _RUN.mkdir(exist_ok=True)
    pidfile = _RUN / f"{one.name}.pid"
    pidfile.unlink(missing_ok=True)
    command = criu.restore_command(one, images, log, pidfile)
    if one.unit:
        units.start_restored(one.unit, command, pidfile)
        return
    if one.cgroup:
        place = _CGROUPS / one.cgroup.strip("/")
        place.mkdir(parents=True, exist_ok=True)
        command = ["sh", "-c", _INTO_CGROUP, str(place / "cgroup.procs"), *command]
    elif units.runs_the_system():
        scope = ("systemd-run", "--scope", "--quiet", "--collect", "--slice=system.slice")
        command = [*scope, *command]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise PramError(" ".join(done.stderr.split()) or f"criu exited with {done.returncode}")
