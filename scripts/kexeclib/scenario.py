"""The scenario for which PRAM was proposed: dump, unmount, kexec, mount, restore; three kexecs in a row."""

from pathlib import Path

from demolib.story import Step, Story
from kexeclib import guest
from kexeclib.machine import Machine
from kexeclib.session import (
    COMMAND_LINE,
    PERSISTENT,
    WORKLOADS,
    Reports,
    Session,
    require_same,
)
from kexeclib.shell import FailureError

KEXECS = 3
_SHOWN_DIGITS = 16

ReportsByName = dict[str, Reports]


def run(story: Story, directory: Path) -> None:
    """Build the guest and run the scenario, with the machine's files in `directory`.

    Raises FailureError when it fails. Leaves no machine behind.
    """
    with story.step("Prepare the guest: Debian 12, CRIU, kexec-tools, this pramfs"):
        files = guest.prepare()
    with Machine(files, directory) as machine:
        session = Session(machine)
        _boot(story, session)
        with story.step("Mount pramfs on the memory, and keep out of a part of it") as step:
            session.mount(step)
            session.command(step, "sh", "-c", "grep -h -A9 banned /run/pramfs/*.log")
        reports = _start(story, session)
        for number in range(1, KEXECS + 1):
            _dump(story, session)
            _kexec(story, session, number)
            reports = _restore(story, session, reports)
        with story.step("Unmount") as step:
            session.umount(step)


def _boot(story: Story, session: Session) -> None:
    with story.step("Boot with a range of memory kept out of the kernel") as step:
        session.machine.boot(COMMAND_LINE)
        session.command(step, "uname", "-sr")
        session.command(step, "cat", "/proc/cmdline")
        session.command(step, "grep", "Persistent", "/proc/iomem")
        session.command(step, "mount", "/dev/vdc", PERSISTENT)


def _start(story: Story, session: Session) -> ReportsByName:
    with story.step("Start processes worth restoring") as step:
        for workload in WORKLOADS:
            session.start(workload)
        return _report(step, session)


def _dump(story: Story, session: Session) -> None:
    with story.step("Dump them into the mount") as step:
        for workload in WORKLOADS:
            session.dump(workload, step)
    with story.step("Unmount, which waits for the save") as step:
        session.umount(step)
        session.command(step, "umount", PERSISTENT)


def _kexec(story: Story, session: Session, number: int) -> None:
    with story.step(f"Kexec {number} of {KEXECS}") as step:
        line = session.kexec(step)
        step.say(f"another kernel runs: {line.strip()}")
        if not line.count("memmap=") == line.count("pram=") == 1:
            raise FailureError("memmap= and pram= should be there once")
    with story.step("Mount in the new kernel") as step:
        session.mount(step)
        session.command(step, "mount", "/dev/vdc", PERSISTENT)


def _restore(story: Story, session: Session, before: ReportsByName) -> ReportsByName:
    with story.step("Restore the processes") as step:
        for workload in WORKLOADS:
            session.restore(workload, step)
    with story.step("Compare them with what they were") as step:
        after = _report(step, session)
        for name, reports in after.items():
            require_same(before[name], reports)
    with story.step("Remove the dumps") as step:
        for workload in WORKLOADS:
            session.remove(workload, step)
    return after


def _report(step: Step, session: Session) -> ReportsByName:
    by_name = {workload.name: session.report(workload) for workload in WORKLOADS}
    for name, reports in by_name.items():
        for report in reports.values():
            facts = (f"{key} {str(value)[:_SHOWN_DIGITS]}" for key, value in report.items())
            step.say(f"{name}: {', '.join(facts)}")
    return by_name
