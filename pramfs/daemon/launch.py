"""Start a mount: in the foreground, or as a daemon that leaves its caller in peace."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from pramfs.daemon import logs
from pramfs.daemon.daemonize import run_in_background
from pramfs.daemon.sd_notify import ServiceManager, take_manager
from pramfs.options import MountOptions


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
        open_log: Callable[[Path], logs.Destination],
    ) -> int:
        # The core and FUSE are loaded by the process that serves, and only there.
        from pramfs.daemon.startup import serve  # noqa: PLC0415

        return serve(image, mountpoint, options, manager, report, open_log)

    if foreground:
        return body(manager, lambda code: None, logs.to_foreground)
    # A daemon is nobody's service: whoever listens there waits for another process.
    return run_in_background(lambda report: body(ServiceManager(), report, logs.to_background))
