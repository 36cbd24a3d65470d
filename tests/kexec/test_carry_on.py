"""The four steps of the 2013 file system, as scripts/kexec-demo shows it."""

import pytest

from examples.criu_dump.story import Story
from tests.kexec import scenario
from tests.kexec.session import Session
from tests.vm.machine import Machine


@pytest.mark.timeout(900)
def test_processes_go_on_after_three_kexecs_in_a_row(machine: Machine) -> None:
    scenario.run(Story(), Session(machine))
    # The machine goes on to other tests.
    machine.run("pkill -KILL -f workload.py; umount /srv")
