"""Start a mount, in the foreground or as a daemon: load the tree of an image, then serve it.

The tree is loaded before there is a mount, so nothing is ever to be seen half loaded. FUSE and trio take as
long to load as a big tree does; they are loaded while other processors verify pages.
"""

import gc
import importlib
import logging
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from pramfs.daemon import logs
from pramfs.daemon.daemonize import run_in_background
from pramfs.daemon.loader import load_volume
from pramfs.daemon.logs import Destination
from pramfs.daemon.sd_notify import EXTEND_PERIOD_S, ServiceManager, take_manager
from pramfs.daemon.stack_dump import StackDumps
from pramfs.errors import PramError
from pramfs.options import MountOptions
from pramfs.system import mountinfo
from pramfs.system.progress import Pulse

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
    image = image.absolute()
    manager = take_manager()
    logs.to_stderr(logging.INFO if foreground or verbose else logging.WARNING)
    # What the daemon leaves is for its user alone; in the tree the umask of each caller counts.
    os.umask(0o077)

    def body(
        manager: ServiceManager,
        report: Callable[[int], None],
        open_log: Callable[[Path], Destination],
    ) -> int:
        return _serve(image, mountpoint, options, manager, report, open_log)

    if foreground:
        return body(manager, lambda code: None, logs.to_foreground)
    # A daemon is nobody's service: whoever listens there waits for another process.
    return run_in_background(lambda report: body(ServiceManager(), report, logs.to_background))


def _serve(
    image_path: Path,
    mountpoint: Path,
    options: MountOptions,
    manager: ServiceManager,
    report: Callable[[int], None],
    open_log: Callable[[Path], Destination],
) -> int:
    """Mount the image and serve it until it is unmounted; returns the exit code.

    `report` is called with 0 as soon as the mount is usable. `open_log` is told where the log of this image
    belongs, and returns where it is; SIGUSR1 writes there, too.
    """
    dumps = StackDumps(sys.stderr.fileno())  # till it is known where the log belongs

    def open_it(path: Path) -> Path | None:
        log_file = open_log(path)
        dumps.descriptor = log_file.descriptor
        return log_file.path

    try:
        _check_mountpoint(mountpoint)
        volume = load_volume(
            image_path,
            options,
            open_log=open_it,
            watch=Pulse(
                EXTEND_PERIOD_S,
                lambda bar: manager.extend_timeout("verifying", bar.done, bar.total),
            ),
            overlapped_work=_load_fuse,
        )
    except PramError as exc:
        log.error("%s", exc)
        return exc.exit_code
    from pramfs.daemon.service import Daemon  # noqa: PLC0415 - see above

    dumps.start_thread()
    return Daemon(volume, mountpoint, options, manager, report).run()


def _load_fuse() -> None:
    # Ctrl-C waits: others verify, and are to be told that it is over.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        importlib.import_module("pramfs.daemon.service")
    except ImportError as exc:
        raise PramError(f"FUSE cannot be loaded: {exc}") from exc
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    # Importing trio leaves a cycle of frames, which has hold of all that our callers have: a tree's metadata.
    gc.collect()


def _check_mountpoint(mountpoint: Path) -> None:
    mountinfo.refuse_dead(mountpoint)
    try:
        mode = mountpoint.stat().st_mode
    except FileNotFoundError:
        raise PramError(f"{mountpoint}: the mountpoint does not exist") from None
    except OSError as exc:
        raise PramError(f"{mountpoint}: cannot mount there: {exc.strerror}") from exc
    if not stat.S_ISDIR(mode):
        raise PramError(f"{mountpoint}: the mountpoint is not a directory")
