"""Have the daemon of a mount deduplicate, and show how far it is."""

from pathlib import Path

from pramfs.control import client
from pramfs.control.dedup_report import DedupReport
from pramfs.control.save_progress import follow, stopped
from pramfs.errors import PramError
from pramfs.system.forked_call import ForkedCall


def dedup(mountpoint: Path) -> DedupReport:
    """Deduplicate all files of a mount now, showing the progress; return what came of it.

    Raises NotMounted, DeadMount, or another PramError if this user may not ask for it or the daemon does not
    do it. An interrupt ends the work; what has been done stays.
    """
    status = client.read_status(mountpoint, "not deduplicated")
    if status.read_only:
        raise PramError(f"{mountpoint}: the mount is read-only: nothing can be deduplicated")

    def look() -> tuple[int, int]:
        report = client.read_dedup(mountpoint)
        return report.done, report.total

    def show(call: ForkedCall) -> None:
        try:
            if follow(status, "looking for equal pages", call, look):
                return
        except BaseException:
            call.abandon()  # which ends the work
            raise
        call.abandon()
        raise PramError(f"{mountpoint}: not deduplicated: {stopped(status)}")

    client.request_dedup(mountpoint, show)
    return client.read_dedup(mountpoint)
