"""Start a mount, in the foreground or as a daemon: load the tree of an image, then serve it.

The tree is loaded before there is a mount, so that no user sees it half loaded. Whatever refuses the mount
raises PramError from a step of `_mount`; wrong options have been refused before, in `options`.
"""

import contextlib
import gc
import logging
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pramfs.control import run_state
from pramfs.control.run_state import RunDirectory
from pramfs.daemon import loader, logs
from pramfs.daemon.daemonize import WaitingParent, fork_daemon
from pramfs.daemon.loader import Volume
from pramfs.daemon.sd_notify import ServiceManager, take_manager
from pramfs.daemon.stack_dump import StackDumps
from pramfs.errors import PramError, SystemFault
from pramfs.options import MountOptions
from pramfs.saves.save import Saver
from pramfs.saves.write_back import WriteBacks
from pramfs.system import heap, limits, mountinfo, surroundings
from pramfs.system.forked_call import interrupt_held, require_single_thread

if TYPE_CHECKING:
    from pramfs.daemon.service import Daemon

log = logging.getLogger("pramfs")


def start_mount(
    image: Path,
    mountpoint: Path,
    options: MountOptions,
    *,
    foreground: bool = False,
    verbose: bool = False,
) -> int:
    """Mount the image, and return the exit code: once it is usable, or in the foreground at the end.

    In the background only errors are printed on the terminal, unless `verbose`; the log has everything.
    """
    image, mountpoint = image.absolute(), mountpoint.absolute()
    manager = take_manager()
    logs.to_stderr(logging.INFO if foreground or verbose else logging.WARNING)
    surroundings.settle_daemon()
    heap.have_one()
    if foreground:
        return _mount_and_serve(image, mountpoint, options, manager, None)
    try:
        with limits.named():
            parent = fork_daemon()
    except SystemFault as exc:
        log.error("%s", exc)
        return exc.exit_code
    if isinstance(parent, WaitingParent):
        # The daemon is not the service's main process: the manager expects reports from that one.
        nobody = ServiceManager()
        parent.end_with(lambda: _mount_and_serve(image, mountpoint, options, nobody, parent))
    return parent


def _mount_and_serve(
    image_path: Path,
    mountpoint: Path,
    options: MountOptions,
    manager: ServiceManager,
    parent: WaitingParent | None,  # None in the foreground
) -> int:
    """Mount the image, serve it until it is unmounted and saved, and return the exit code."""
    try:
        with limits.named():
            daemon = _mount(image_path, mountpoint, options, manager, parent)
    except PramError as exc:
        log.error("%s", exc)
        return exc.exit_code
    return daemon.run()


def _mount(
    image_path: Path,
    mountpoint: Path,
    options: MountOptions,
    manager: ServiceManager,
    parent: WaitingParent | None,
) -> "Daemon":
    """Do everything up to the mount, in order. Raises PramError; then nothing has changed."""
    dumps = StackDumps(sys.stderr.fileno())  # until there is a log
    _refuse_as_mountpoint(mountpoint)
    with contextlib.ExitStack() as undo:
        # Open and lock the image.
        image = loader.open_and_lock(image_path, options)
        undo.callback(image.close)
        undo.callback(image.unmake)

        # Reserve the frames of the last save. Then the uuid of the image is known, and with it the log file.
        pram = loader.reserve(image, options, undo)
        run_directory = _open_run_directory()
        log_file = logs.to_foreground()
        if parent is not None:
            name = run_state.log_name(image, pram.current.uuid)
            log_file = logs.to_background(run_directory, name)
        dumps.descriptor = log_file.descriptor
        loader.log_what_is_known(pram, options)

        # Tell other machines, verify in other processes, and load. Importing FUSE and trio takes as long as
        # loading a big tree.
        require_single_thread()
        with (
            loader.marked(pram, options, undo),
            loader.verify(pram, options, manager) as load,
        ):
            service_class = _import_fuse()
            tree = load()
        saver = Saver(pram, options.name, tree)
        volume = Volume(
            pram=pram,
            tree=tree,
            saver=saver,
            write_backs=WriteBacks(pram.arena, saver.pace, options.writeback),
            read_only=options.ro,
            run_directory=run_directory,
            log_path=log_file.path,
        )
        loader.require_room(volume)
        loader.give_back_abandoned(pram, options)

        # Nothing forks after this, so threads are allowed.
        dumps.start_thread()
        daemon = service_class(volume, mountpoint, options, manager, parent)
        daemon.mount()
        undo.pop_all()
    return daemon


def _open_run_directory() -> RunDirectory | None:
    """Return the run directory, None where there can be none: a mount works without."""
    try:
        return run_state.open_run_directory()
    except SystemFault as exc:
        log.warning("no log and no state is left for others: %s", exc)
        return None


def _import_fuse() -> "type[Daemon]":
    try:
        with interrupt_held():  # or it could be lost, and the processes that verify would go on
            from pramfs.fuse.binding_version import refuse_untested  # noqa: PLC0415 - see `_mount`

            refuse_untested()
            from pramfs.daemon.service import Daemon  # noqa: PLC0415 - as above
    except ImportError as exc:
        raise PramError(f"FUSE cannot be loaded: {exc}") from exc
    # Importing trio leaves a reference cycle of frames that keeps the callers' variables alive: metadata.
    gc.collect()
    return Daemon


def _refuse_as_mountpoint(mountpoint: Path) -> None:
    mountinfo.refuse_dead(mountpoint)
    try:
        mode = mountpoint.stat().st_mode
    except FileNotFoundError:
        raise PramError(f"{mountpoint}: the mountpoint does not exist") from None
    except OSError as exc:
        raise PramError(f"{mountpoint}: cannot mount there: {exc.strerror}") from exc
    if not stat.S_ISDIR(mode):
        raise PramError(f"{mountpoint}: the mountpoint is not a directory")
    if mountpoint.resolve() == Path("/proc"):
        raise PramError(f"{mountpoint}: cannot mount there: the daemon itself needs it")
