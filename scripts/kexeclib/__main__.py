"""Run the scenario and tell it: `python -m kexeclib`, without arguments. Ends in PASS or FAIL."""

import shutil
import signal
import sys

from demolib.shell import make_place
from demolib.story import Story
from kexeclib import guest, scenario
from kexeclib.machine import MEMORY_MIB, Machine
from kexeclib.shell import FailureError


def main() -> int:
    """Run the scenario; returns the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    story = Story()
    story.title("pramfs: processes go on in another kernel, their memory kept in place over kexec")
    directory = make_place(MEMORY_MIB << 20)
    try:
        with story.step("Prepare the guest: Debian 12, CRIU, kexec-tools, this pramfs"):
            files = guest.prepare()
        with Machine(files, directory) as machine:
            scenario.run(story, machine)
    except (FailureError, OSError) as error:
        story.failed(str(error))
        return 1
    except KeyboardInterrupt:
        story.failed("interrupted")
        return 128 + signal.SIGINT
    finally:
        shutil.rmtree(directory)
    story.passed(f"the processes went on after {scenario.KEXECS} kexecs in a row")
    return 0


if __name__ == "__main__":
    sys.exit(main())
