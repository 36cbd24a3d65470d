"""Run the scenario and tell it: `python -m tests.kexec.demo`, without arguments. Ends in PASS or FAIL."""

import signal
import sys
import tempfile
from pathlib import Path

from examples.criu_dump.story import Story
from tests.kexec import recipe, scenario
from tests.vm.machine import Machine
from tests.vm.shell import FailureError


def main() -> int:
    """Run the scenario; returns the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    story = Story()
    story.title("pramfs: processes go on in another kernel, their memory kept in place over kexec")
    try:
        with story.step("Prepare the guest: Debian 12, CRIU, kexec-tools, this pramfs"):
            files = recipe.RECIPE.prepare()
        with (
            tempfile.TemporaryDirectory(prefix="pramfs-kexec-demo.") as directory,
            Machine(files, Path(directory)) as machine,
        ):
            scenario.run(story, machine)
    except (FailureError, OSError) as error:
        story.failed(str(error))
        return 1
    except KeyboardInterrupt:
        story.failed("interrupted")
        return 128 + signal.SIGINT
    story.passed(f"the processes went on after {scenario.KEXECS} kexecs in a row")
    return 0


if __name__ == "__main__":
    sys.exit(main())
