"""Run the demo, and end it well: `python -m examples.criu_dump`, without arguments.

Exits with 0 if everything is as it should be, with 1 if not, with 128 and its number if a signal
ended it. Whatever happens, the processes, the mount and the files are gone afterwards.
"""

import platform
import signal
import sys
import traceback
from contextlib import ExitStack
from types import FrameType
from typing import Never

from examples.criu_dump.demo import Demo
from examples.criu_dump.images import ImagesError
from examples.criu_dump.shell import FailureError
from examples.criu_dump.story import Story

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedBySignalError(BaseException):
    """A signal wants the demo to end; like KeyboardInterrupt, it is nobody's error to handle."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def main() -> int:
    """Run the demo; return its exit code."""
    story = Story()
    story.title(
        "pramfs: the memory of live processes, kept while the filesystem goes and comes back"
    )
    print(f"Python {platform.python_version()}, Linux {platform.release()}")
    try:
        with ExitStack() as cleanup:
            try:
                Demo(story, cleanup).run()
            finally:
                ignore_signals()  # what cleans up is not to be interrupted
    except InterruptedBySignalError as interruption:
        story.failed(f"interrupted by {interruption}; everything has been cleaned up")
        return 128 + interruption.number
    except (FailureError, ImagesError, OSError) as error:
        story.failed(str(error))
        return 1
    except Exception as error:  # noqa: BLE001 - whatever it is, the demo ends in PASS or FAIL
        traceback.print_exc()
        story.failed(f"unexpected: {error!r}")
        return 1
    story.passed("every byte came back")
    return 0


def ignore_signals() -> None:
    """From now on, do not be interrupted."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def raise_interrupted(number: int, frame: FrameType | None) -> Never:
    """Handle a signal."""
    ignore_signals()
    raise InterruptedBySignalError(number)


if __name__ == "__main__":
    for number in SIGNALS:
        signal.signal(number, raise_interrupted)
    sys.exit(main())
