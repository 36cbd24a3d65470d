"""Dump what a configuration names: first on trial, which changes nothing, then in earnest."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pramfs.checkpoint import criu, endpoints, held, manifest, processes, restore, units
from pramfs.checkpoint.configuration import Configuration
from pramfs.checkpoint.held import End, Held
from pramfs.checkpoint.manifest import PENDING, Dumped, Manifest
from pramfs.errors import NotDumpable, NotDumped, PramError

_TRIAL = "trial"

Tell = Callable[[str], object]


def trial(configuration: Configuration, tell: Tell) -> list[Dumped]:
    """Dump everything and leave it running; return what there is to dump.

    The dumps are removed. Raises NotDumpable with all that cannot be dumped, and why; their logs are kept.
    """
    waiting = manifest.read(configuration.mountpoint)
    if waiting is not None and waiting.state == PENDING:
        raise PramError(f"{configuration.mountpoint}: dumps wait there; first: pramfs restore")
    found: list[Dumped] = []
    wrong: list[str] = []
    for wanted in configuration.wanted:
        try:
            found += processes.roots_of(wanted)
        except PramError as exc:
            wrong.append(str(exc))
    wrong += _clashes(found)
    held.STATE.mkdir(parents=True, exist_ok=True)
    manifest.directory(configuration.mountpoint).mkdir(mode=0o700, exist_ok=True)
    manifest.require_own(configuration.mountpoint)
    place = manifest.directory(configuration.mountpoint) / _TRIAL
    shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
    needed_bytes, free_bytes = 0, shutil.disk_usage(configuration.mountpoint).free
    for dumped in found:
        log = held.STATE / f"{dumped.name}.trial.log"
        try:
            criu.dump(dumped, place / dumped.name, log, leave_running=True)
        except NotDumped as exc:
            wrong.append(str(exc))
        else:
            log.unlink(missing_ok=True)
            needed_bytes += sum(path.lstat().st_blocks << 9 for path in place.rglob("*"))
            tell(f"can be dumped: {dumped.name}, process {dumped.pid}")
        finally:
            shutil.rmtree(place, ignore_errors=True)
    if needed_bytes > free_bytes:
        needed, free = (f"{size >> 20} MiB" for size in (needed_bytes, free_bytes))
        wrong.append(f"together they take {needed}, and {configuration.mountpoint} has {free} free")
    if wrong:
        raise NotDumpable("; ".join(wrong))
    return found


def _clashes(found: Sequence[Dumped]) -> Iterator[str]:
    """Yield what keeps these from being dumped one after the other."""
    owners: dict[int, str] = {}
    names: set[str] = set()
    for one in found:
        tree = processes.tree_of(one.pid)
        taken = sorted(tree & owners.keys())
        if taken:
            yield f"{one.name}: its process {taken[0]} is one of {owners[taken[0]]}, too"
        elif one.name in names:
            yield f"{one.name}: two dumps would have this name"
        names.add(one.name)
        owners |= dict.fromkeys(tree, one.name)


@contextmanager
def dumped(configuration: Configuration, found: Sequence[Dumped], tell: Tell) -> Iterator[None]:
    """Dump the processes, which ends them; in the `with` they are gone.

    An exception there or here restores all that were dumped, and mounts again what was unmounted.
    """
    mountpoint = configuration.mountpoint
    image = restore.image_of(mountpoint)
    names = tuple(one.unit for one in found if one.unit)
    pids = set[int]().union(*(processes.tree_of(one.pid) for one in found))
    ends = tuple(End(*end) for end in endpoints.of_processes(pids))
    waiting = Held(str(mountpoint), names, ends)
    try:
        held.write(waiting)  # first: when this is killed, `pramfs restore` knows what to release
        units.quiet(names)
        waiting.hold()
        _dump_all(mountpoint, found, tell)
        yield
    except BaseException:
        tell("restoring what was dumped")
        _undo(configuration, image, waiting, tell)
        raise


def _dump_all(mountpoint: Path, found: Sequence[Dumped], tell: Tell) -> None:
    """Dump one after the other; the manifest always has those that are gone."""
    place = manifest.directory(mountpoint)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    for number, one in enumerate(found, 1):
        images = place / one.name
        criu.dump(one, images, images / "dump.log", leave_running=False)
        manifest.write(mountpoint, Manifest(PENDING, tuple(found[:number])))
        tell(f"dumped:   {one.name}, process {one.pid}")


def _undo(configuration: Configuration, image: Path, waiting: Held, tell: Tell) -> None:
    mountpoint = configuration.mountpoint
    try:
        restore.mount_again(image, mountpoint, configuration.mount_options)
        outcome = restore.restore(mountpoint)
    except (PramError, OSError) as exc:
        tell(
            f"the dumps stay in {image}, because: {exc}; to restore them, mount it and run: pramfs restore"
        )
        return
    try:
        waiting.release()
    except PramError as exc:
        tell(str(exc))
    for line in outcome.lines():
        tell(line)
