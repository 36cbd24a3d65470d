"""Start a mount, in the foreground or as a daemon: load the tree of an image, then serve it.

The tree is loaded before there is a mount, so nothing is ever to be seen half loaded.
"""

import contextlib
import gc
import logging
import os
import signal
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pramfs.control import run_state
from pramfs.daemon import loader, logs
from pramfs.daemon.daemonize import WaitingParent, fork_daemon
from pramfs.daemon.loader import Volume
from pramfs.daemon.sd_notify import ServiceManager, take_manager
from pramfs.daemon.stack_dump import StackDumps
from pramfs.errors import PramError
from pramfs.options import MountOptions
from pramfs.saves.save import Saver
from pramfs.system import mountinfo
from pramfs.system.forked_call import require_single_thread

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
    """Mount the image. Returns an exit code: 0 once it is usable; in the foreground when all is over.

    In the background the terminal hears only of what is wrong, unless `verbose`; all of it is in the log.
    """
    image, mountpoint = image.absolute(), mountpoint.absolute()
    manager = take_manager()
    logs.to_stderr(logging.INFO if foreground or verbose else logging.WARNING)
    # What the daemon leaves is for its user alone; in the tree the umask of each caller counts.
    os.umask(0o077)
    if foreground:
        return _mount_and_serve(image, mountpoint, options, manager, None)
    parent = fork_daemon()
    if isinstance(parent, WaitingParent):
        # A daemon is nobody's service: whoever listens there waits for another process.
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
    """Mount the image and serve it until it is unmounted and saved; returns the exit code."""
    try:
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
    """Do all that comes before the mount is ready, in order. Raises PramError; then nothing has changed."""
    dumps = StackDumps(sys.stderr.fileno())  # till it is known where the log belongs
    os.chdir("/")  # keep no directory busy
    _refuse_as_mountpoint(mountpoint)
    with contextlib.ExitStack() as undo:
        # Open and lock the image.
        image = loader.open_and_lock(image_path, options)
        undo.callback(image.close)
        undo.callback(image.unmake)

        # Reserve the frames of the last save. From here on it is known which image it is, so there is a log.
        pram = loader.reserve(image, options)
        log_file = logs.to_foreground()
        if parent is not None:
            log_file = logs.to_background(run_state.log_path(image, pram.current.uuid))
        dumps.descriptor = log_file.descriptor
        run_state.prune()
        loader.log_what_is_known(pram, options)

        # Verify in other processes, and load. FUSE and trio take as long to load as a big tree does.
        require_single_thread()
        with loader.verify(pram, options, manager) as load:
            service_class = _import_fuse()
            tree = load()
        volume = Volume(
            image=image,
            pram=pram,
            tree=tree,
            saver=Saver(pram, options.name, tree),
            read_only=options.ro,
            state_path=run_state.state_path(image, pram.current.uuid),
            log_path=log_file.path,
        )
        loader.require_room(volume)

        # Nothing forks any more: now there may be threads.
        dumps.start_thread()
        daemon = service_class(volume, mountpoint, options, manager, parent)
        daemon.mount()
        undo.pop_all()
    return daemon


def _import_fuse() -> "type[Daemon]":
    # Ctrl-C waits: others verify, and are to be told that it is over.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        from pramfs.daemon.service import Daemon  # noqa: PLC0415 - see `_mount`
    except ImportError as exc:
        raise PramError(f"FUSE cannot be loaded: {exc}") from exc
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    # Importing trio leaves a cycle of frames, which has hold of all that our callers have: a tree's metadata.
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
