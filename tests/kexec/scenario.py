"""The scenario for which PRAM was proposed: dump, unmount, kexec, mount, restore; three kexecs in a row."""

from examples.criu_dump.story import Step, Story
from tests.kexec.session import PERSISTENT, WORKLOADS, Reports, Session, require_same

KEXECS = 3
_SHOWN_DIGITS = 16

ReportsByName = dict[str, Reports]


def run(story: Story, session: Session) -> None:
    """Run the scenario, from a boot of the machine on; leaves it on. Raises FailureError when it fails."""
    with story.step(session.boot_title) as step:
        session.boot(step)
        session.command(step, "mount", "/dev/vdc", PERSISTENT)
    with story.step(session.mount_title) as step:
        session.mount(step)
        session.show_mount(step)
    reports = _start(story, session)
    for number in range(1, KEXECS + 1):
        _dump(story, session)
        _kexec(story, session, number)
        reports = _restore(story, session, reports)
    with story.step("Unmount") as step:
        session.umount(step)


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
    with story.step(session.mount_again_title) as step:
        session.mount_again(step, line)
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
