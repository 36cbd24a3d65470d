"""An image on a network block device: its server goes away and comes back, and another machine reaches it."""

import time

import pytest

from tests.vm.machine import Machine, Result

pytestmark = pytest.mark.timeout(1500)

FAILED = 32
WAIT_S = 200
# Without another process after the save has begun: that would be too late.
IN_THE_MIDDLE_OF_A_SAVE = """\
server=$(network pids)
read -ra before </sys/block/nbd0/stat
{ pramfs save /mnt/a; echo ended with $?; } >/run/save 2>&1 &
while read -ra now </sys/block/nbd0/stat; ((now[6] < before[6] + 2048)); do :; done  # 1 MiB of 16
"""


def test_a_save_waits_for_the_server_and_is_complete_then(machine: Machine) -> None:
    machine.run("network connect /dev/nbd0 && pramfs mount /dev/nbd0 /mnt/a")
    # Not in the root: the kernel locks that while somebody asks for a save.
    machine.run(
        "mkdir /mnt/a/d; cd /mnt/a/d; head -c 16M /dev/urandom >old; sha1sum $PWD/old >/run/sum"
    )
    machine.run(f"{IN_THE_MIDDLE_OF_A_SAVE} kill -STOP $server")
    # Meanwhile others are served.
    machine.run("touch /mnt/a/d/other; ls -l /mnt/a/d; pramfs status /mnt/a", seconds=60)
    assert machine.run("cat /run/save") == ""
    machine.run("kill -CONT $(network pids)")
    told = wait_for(machine, "grep -q ended /run/save && cat /run/save")
    assert "saved to /dev/nbd0" in told
    machine.run("pramfs umount /mnt/a && pramfs check /dev/nbd0")
    machine.run("pramfs mount /dev/nbd0 /mnt/a && sha1sum -c /run/sum && pramfs umount /mnt/a")
    machine.run("nbd-client -d /dev/nbd0")


def test_a_server_that_does_not_answer_is_not_waited_for_longer_than_the_client_is_told_to(
    machine: Machine,
) -> None:
    machine.run("network connect /dev/nbd1 -timeout 4")
    machine.run("pramfs mount /dev/nbd1 /mnt/a && echo 1 >/mnt/a/saved && pramfs save /mnt/a")
    machine.run("echo 2 >/mnt/a/late; kill -STOP $(network pids)")
    told = refused(machine, "pramfs save /mnt/a", code=FAILED)
    assert "save failed" in told
    assert "previous save" in told
    machine.run("ls /mnt/a && cat /mnt/a/late && pramfs status /mnt/a", seconds=60)
    assert "save failed" in refused(machine, "pramfs umount /mnt/a", code=FAILED)
    machine.run("kill -CONT $(network pids); nbd-client -d /dev/nbd1; network connect /dev/nbd1")
    machine.run("pramfs check /dev/nbd1")
    names = machine.run("pramfs ls /dev/nbd1")
    assert "saved" in names
    assert "late" not in names
    machine.run("nbd-client -d /dev/nbd1")


def test_a_second_machine_is_refused_until_it_takes_over(machine: Machine) -> None:
    machine.run("network connect /dev/nbd0; network connect /dev/nbd1")
    machine.run("pramfs mount /dev/nbd0 /mnt/a; echo 1 >/mnt/a/alpha; pramfs save /mnt/a")
    told = refused(machine, "elsewhere pramfs mount /dev/nbd1 /mnt/a", code=FAILED)
    assert "in use by alpha" in told
    assert "pramfs takeover /dev/nbd1" in told
    # The administrator is wrong: alpha lives, and has something to save.
    machine.run("echo 2 >/mnt/a/late")
    assert "taken over from alpha" in machine.run("elsewhere pramfs takeover /dev/nbd1")
    machine.run("elsewhere pramfs mount /dev/nbd1 /mnt/a && elsewhere sh -c 'echo 3 >/mnt/a/beta'")
    assert "beta" in machine.run("pramfs status /mnt/a")
    assert "beta (machine" in refused(machine, "pramfs save /mnt/a", code=FAILED)
    assert "has taken" in refused(machine, "pramfs umount /mnt/a", code=FAILED)
    machine.run("elsewhere pramfs umount /mnt/a && pramfs check /dev/nbd0")
    names = machine.run("pramfs ls /dev/nbd0")
    assert "beta" in names
    assert "late" not in names
    machine.run("nbd-client -d /dev/nbd0; nbd-client -d /dev/nbd1")


def test_a_save_in_the_middle_of_which_the_server_dies_fails(machine: Machine) -> None:
    # Without netlink the kernel ends what it waits for as soon as the connection is lost.
    machine.run("network connect /dev/nbd0 -nonetlink")
    machine.run("pramfs takeover /dev/nbd0; pramfs mount /dev/nbd0 /mnt/a; mkdir -p /mnt/a/d")
    machine.run(
        "echo 1 >/mnt/a/d/saved; pramfs save /mnt/a; head -c 16M /dev/urandom >/mnt/a/d/new"
    )
    machine.run(f"{IN_THE_MIDDLE_OF_A_SAVE} kill -KILL $server")
    # Meanwhile others are served.
    machine.run("touch /mnt/a/d/other; ls -l /mnt/a/d", seconds=60)
    told = wait_for(machine, "grep -q ended /run/save && cat /run/save")
    assert f"ended with {FAILED}" in told
    assert "save failed" in told
    assert "saved to" not in told
    assert "save failed" in machine.run("pramfs status /mnt/a", seconds=60)
    assert "save failed" in refused(machine, "pramfs umount /mnt/a", code=FAILED)
    # It comes back, and has the save before.
    machine.attempt("nbd-client -d /dev/nbd0")
    machine.run("network serve; network connect /dev/nbd2")
    machine.run("pramfs check /dev/nbd2")
    names = machine.run("pramfs ls /dev/nbd2 d")
    assert "saved" in names
    assert "new" not in names
    machine.run("pramfs mount /dev/nbd2 /mnt/a; echo 2 >/mnt/a/d/again; pramfs umount /mnt/a")
    machine.run("pramfs check /dev/nbd2; nbd-client -d /dev/nbd2")


def refused(machine: Machine, command: str, *, code: int) -> str:
    """What a command says that exits with that code, in good time."""
    result = machine.attempt(command, seconds=WAIT_S)
    assert result.code == code, result
    return result.output


def wait_for(machine: Machine, command: str) -> str:
    """What a command writes when it succeeds at last."""
    end_s = time.monotonic() + WAIT_S
    result = Result(1, "")
    while result.code:
        assert time.monotonic() < end_s, f"{command}: {result.output}"
        result = machine.attempt(command)
    return result.output
