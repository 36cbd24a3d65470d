"""Run the scenario and tell it: `python -m tests.kexec.demo [--live-update]`. Ends in PASS or FAIL."""

import signal
import sys
import tempfile
from pathlib import Path

from examples.criu_dump.story import Story
from tests.kexec import recipe, scenario
from tests.kexec.session import LiveSession, Session
from tests.vm.machine import Machine
from tests.vm.shell import FailureError


def main() -> int:
    """Run the scenario; returns the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    live_update = sys.argv[1:] == ["--live-update"]
    guest = recipe.LIVE_UPDATE if live_update else recipe.RECIPE
    kind = LiveSession if live_update else Session
    story = Story()
    story.title(kind.title)
    try:
        release = "13, a kernel with live update" if live_update else "12"
        with story.step(f"Prepare the guest: Debian {release}, CRIU, kexec-tools, this pramfs"):
            files = guest.prepare()
        with (
            tempfile.TemporaryDirectory(prefix="pramfs-kexec-demo.") as directory,
            Machine(files, Path(directory)) as machine,
        ):
            scenario.run(story, kind(machine))
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
