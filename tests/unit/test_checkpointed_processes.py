"""The order of trial, dumps and restores, and what is undone when one fails, with a double of criu."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pramfs.checkpoint import (
    criu,
    dump,
    endpoints,
    firewall,
    held,
    manifest,
    processes,
    restore,
    units,
)
from pramfs.checkpoint.configuration import Configuration, Wanted
from pramfs.checkpoint.manifest import CONSUMED, PENDING, Dumped, Manifest
from pramfs.cli.main import main
from pramfs.errors import NotDumpable, PramError
from tests.support import criu_double
from tests.support.json_schemas import conforming


class Machine:
    """A mount, a service `web.service` and a process of no service, with doubles of all programs."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mountpoint = place / "mnt"
        self.mountpoint.mkdir()
        self.units = place / "units"
        self.units.mkdir()
        self.calls_file = place / "calls"
        self.calls_file.touch()
        self.monkeypatch = monkeypatch
        self.told: list[str] = []
        self.mounted = True
        self.saves = 0
        self.service, self.process = (
            subprocess.Popen(["sleep", "1000"]),
            subprocess.Popen(["sleep", "1000"]),
        )
        group = place / "cgroup/system.slice/web.service"
        group.mkdir(parents=True)
        (group / "cgroup.procs").write_text(f"{self.service.pid}\n")
        monkeypatch.setenv("PATH", criu_double.path_with(criu_double.install(place / "bin")))
        monkeypatch.setenv("CALLS", str(self.calls_file))
        monkeypatch.setenv("UNITS", str(self.units))
        monkeypatch.setenv("FAIL", "")
        monkeypatch.setenv("NFT_FAILS", "")
        monkeypatch.setattr(units, "_UNITS", self.units)
        monkeypatch.setattr(held, "STATE", place / "state")
        monkeypatch.setattr(restore, "_RUN", place / "run")
        monkeypatch.setattr(processes, "_CGROUPS", place / "cgroup")
        monkeypatch.setattr(restore, "_CGROUPS", place / "cgroup")
        monkeypatch.setattr(restore, "image_of", lambda mountpoint: Path("/image"))
        monkeypatch.setattr(restore, "mount_again", self._mount_again)
        monkeypatch.setattr("pramfs.control.client.request_save", self._save)
        monkeypatch.setattr(
            "pramfs.system.mountinfo.mount_at", lambda path: path if self.mounted else None
        )
        monkeypatch.setattr(endpoints, "of_processes", lambda pids: [("10.0.0.1", 80), ("", 80)])

    def _mount_again(self, image: Path, mountpoint: Path, options: str) -> None:
        self.told.append(f"mounted {image} with {options}")

    def _save(self, mountpoint: Path) -> None:
        self.saves += 1
        state = manifest.read(mountpoint)
        assert state is not None
        assert state.state == CONSUMED, "saved before anything is restored"

    @property
    def configuration(self) -> Configuration:
        wanted = (
            Wanted("unit", "web.service", ("--tcp-established",)),
            Wanted("pid", str(self.process.pid), ()),
        )
        return Configuration(self.mountpoint, "banned=0-1M", wanted)

    @property
    def pid_name(self) -> str:
        return f"pid-{self.process.pid}"

    def fail(self, *steps: str) -> None:
        self.monkeypatch.setenv("FAIL", " ".join(steps))

    def calls(self, program: str) -> list[str]:
        lines = self.calls_file.read_text().splitlines()
        return [line.partition(" ")[2] for line in lines if line.startswith(program)]

    def criu_steps(self) -> list[str]:
        """The calls of criu as STEP NAME."""
        steps = []
        for call in self.calls("criu"):
            words = call.split()
            step = "trial" if "--leave-running" in words else words[0]
            steps.append(f"{step} {Path(words[words.index('-D') + 1]).name}")
        return steps

    def trial(self) -> list[Dumped]:
        return dump.trial(self.configuration, self.told.append)

    @contextmanager
    def dumped(self) -> Iterator[None]:
        with dump.dumped(self.configuration, self.trial(), self.told.append):
            yield

    def is_running(self, process: "subprocess.Popen[bytes]") -> bool:
        return process.poll() is None

    def has_ended(self, process: "subprocess.Popen[bytes]") -> bool:
        """Wait for a process that was killed."""
        process.wait(30)
        return True

    def end(self) -> None:
        for process in (self.service, self.process):
            process.kill()
            process.wait()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(tmp_path, monkeypatch)
    yield machine
    machine.end()


# --- the trial ------------------------------------------------------------------------------------


def test_the_trial_changes_nothing(machine: Machine) -> None:
    found = machine.trial()
    assert [one.name for one in found] == ["web.service", machine.pid_name]
    assert machine.is_running(machine.service)
    assert machine.is_running(machine.process)
    assert not list(manifest.directory(machine.mountpoint).glob("*"))
    assert machine.calls("nft") == []
    assert not list(machine.units.iterdir())


def test_all_that_cannot_be_dumped_is_named_with_reason_and_log(machine: Machine) -> None:
    machine.fail("trial:web.service", f"trial:{machine.pid_name}")
    with pytest.raises(NotDumpable) as refused:
        machine.trial()
    told = str(refused.value)
    for name in ("web.service", machine.pid_name):
        log = held.STATE / f"{name}.trial.log"
        assert f"{name}: cannot be dumped: inet: Connected TCP socket; log: {log}" in told
        assert log.exists()
    assert machine.is_running(machine.service)
    assert not list(manifest.directory(machine.mountpoint).glob("*"))


def test_what_does_not_run_is_named(machine: Machine) -> None:
    machine.process.kill()
    machine.process.wait()
    with pytest.raises(NotDumpable, match=f"there is no process {machine.process.pid}"):
        machine.trial()
    assert machine.is_running(machine.service)


def test_a_dump_without_room_has_failed_whatever_criu_says(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "bin/criu").write_text(
        "#!/bin/bash\n"
        'while [ "$1" != -o ]; do shift; done\n'
        'echo "(00.09) Error (criu/util.c:1): Unable to close fd: No space left on device" >"$2"\n'
    )
    with pytest.raises(NotDumpable, match="No space left on device"):
        machine.trial()


def test_a_missing_criu_is_named(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin/criu").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin/systemctl").write_text(
        "#!/bin/sh\necho ActiveState=active\necho ControlGroup=/system.slice/web.service\n"
    )
    (tmp_path / "bin/sh").symlink_to("/bin/sh")
    with pytest.raises(PramError, match="install criu"):
        machine.trial()


def test_dumps_that_wait_are_not_overwritten(machine: Machine) -> None:
    with machine.dumped():
        pass
    with pytest.raises(PramError, match="dumps wait there; first: pramfs restore"):
        machine.trial()


def test_processes_that_two_entries_name_are_told_before_anything_is_stopped(
    machine: Machine,
) -> None:
    """The second dump would find them gone."""
    wanted = (*machine.configuration.wanted, Wanted("pid", str(machine.service.pid), ()))
    configuration = Configuration(machine.mountpoint, "", wanted)
    told = f"pid-{machine.service.pid}: its process {machine.service.pid} is one of web.service"
    with pytest.raises(NotDumpable, match=told):
        dump.trial(configuration, machine.told.append)


def test_dumps_for_which_there_is_no_room_together_are_told_before_anything_is_stopped(
    machine: Machine,
) -> None:
    """Each on trial has the room of all."""
    room = shutil.disk_usage(machine.mountpoint)._replace(free=4096)
    machine.monkeypatch.setattr("shutil.disk_usage", lambda path: room)
    with pytest.raises(NotDumpable, match=r"together they take 0 MiB, and \S+ has 0 MiB free"):
        machine.trial()
    assert machine.is_running(machine.service)
    assert machine.is_running(machine.process)


def test_two_dumps_of_one_name_are_told_before_anything_is_stopped(
    machine: Machine, tmp_path: Path
) -> None:
    pids = (machine.service.pid, machine.process.pid)
    one = f"one-{max(pids)}"
    with subprocess.Popen(["sleep", "1000"]) as third:
        try:
            for name, text in (("one", f"{pids[0]}\n{pids[1]}\n"), (one, f"{third.pid}\n")):
                (tmp_path / "cgroup" / name).mkdir()
                (tmp_path / "cgroup" / name / "cgroup.procs").write_text(text)
            wanted = (Wanted("cgroup", "/one", ()), Wanted("cgroup", f"/{one}", ()))
            configuration = Configuration(machine.mountpoint, "", wanted)
            with pytest.raises(NotDumpable, match=f"{one}: two dumps would have this name"):
                dump.trial(configuration, machine.told.append)
        finally:
            third.kill()


@pytest.mark.parametrize("step", ["trial", "restore"])
@pytest.mark.parametrize("wrong", ["mode", "link"])
def test_a_directory_of_dumps_that_others_have_made_is_not_used(
    machine: Machine, tmp_path: Path, step: str, wrong: str
) -> None:
    """What is there, criu does as root."""
    with machine.dumped():
        pass
    place = manifest.directory(machine.mountpoint)
    if wrong == "mode":
        place.chmod(0o777)
    else:
        place.rename(tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PramError, match=r"\.pramfs-checkpoint: not a directory that only root"):
        machine.trial() if step == "trial" else restore.restore(machine.mountpoint)
    assert not [step for step in machine.criu_steps() if step.startswith("restore")]


# --- dumps ----------------------------------------------------------------------------------------


def test_all_is_dumped_in_order_and_waits(machine: Machine) -> None:
    with machine.dumped():
        assert machine.has_ended(machine.service)
        assert machine.has_ended(machine.process)
    assert machine.criu_steps() == [
        "trial web.service",
        f"trial {machine.pid_name}",
        "dump web.service",
        f"dump {machine.pid_name}",
    ]
    assert all("--tcp-established" in call for call in machine.calls("criu")[::2])
    waiting = manifest.read(machine.mountpoint)
    assert waiting is not None
    assert waiting.state == PENDING
    assert [one.name for one in waiting.dumped] == ["web.service", machine.pid_name]
    state = held.read()
    assert state is not None
    assert state.units == ("web.service",)


def test_packets_are_dropped_and_the_service_stays_down_before_the_first_dump(
    machine: Machine,
) -> None:
    with machine.dumped():
        pass
    lines = machine.calls_file.read_text().splitlines()
    first_dump = next(n for n, line in enumerate(lines) if "criu dump" in line and "trial" not in line
                      and "--leave-running" not in line)  # fmt: skip
    assert any(line.startswith("nft") and "10.0.0.1 . 80" in line for line in lines[:first_dump])
    assert "systemctl daemon-reload" in lines[:first_dump]
    assert "Restart=no" in (machine.units / "web.service.d/50-pramfs-checkpoint.conf").read_text()


@pytest.mark.parametrize("failing", ["first", "second"])
def test_a_dump_that_fails_restores_what_was_dumped_before(machine: Machine, failing: str) -> None:
    name = "web.service" if failing == "first" else machine.pid_name
    machine.fail(f"dump:{name}")
    with pytest.raises(PramError, match=f"{name}: cannot be dumped"), machine.dumped():
        pytest.fail("it must not go on")
    assert machine.is_running(machine.process)
    assert machine.is_running(machine.service) == (failing == "first")
    restored = [step for step in machine.criu_steps() if step.startswith("restore")]
    assert restored == ([] if failing == "first" else ["restore web.service"])
    assert ("web.service: restored" in machine.told) == (failing == "second")
    require_all_released(machine)


def test_a_failure_after_the_dumps_mounts_again_and_restores(machine: Machine) -> None:
    with pytest.raises(RuntimeError, match="kexec"), machine.dumped():
        raise RuntimeError("kexec")
    assert "mounted /image with banned=0-1M" in machine.told
    assert machine.criu_steps()[-2:] == [f"restore {machine.pid_name}", "restore web.service"]
    assert machine.told[-2:] == [f"{machine.pid_name}: restored", "web.service: restored"]
    require_all_released(machine)


def test_a_command_that_is_killed_leaves_all_that_a_restore_needs(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second dump, so that it undoes nothing."""
    monkeypatch.setattr(dump, "_undo", lambda *_: None)
    machine.fail(f"dump:{machine.pid_name}")
    with pytest.raises(PramError), machine.dumped():
        pytest.fail("it must not go on")
    machine.fail()
    outcome = restore.restore_held(machine.mountpoint)
    assert outcome.restored == ("web.service",)
    require_all_released(machine)


def test_a_firewall_that_fails_stops_nothing(machine: Machine) -> None:
    machine.monkeypatch.setenv("NFT_FAILS", "1")
    with pytest.raises(PramError, match="nft failed: no nf_tables"), machine.dumped():
        pytest.fail("it must not go on")
    assert machine.is_running(machine.service)
    assert machine.is_running(machine.process)
    assert held.read() is None, "or the next boot would keep the service from starting"
    assert not list(machine.units.iterdir())


def test_an_undo_that_fails_says_where_the_dumps_are(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(image: Path, mountpoint: Path, options: str) -> None:
        raise PramError("no daemon")

    monkeypatch.setattr(restore, "mount_again", fail)
    with pytest.raises(RuntimeError), machine.dumped():
        raise RuntimeError
    assert "the dumps stay in /image, because: no daemon" in machine.told[-1]
    assert held.read() is not None, "for the restore to come"


def require_all_released(machine: Machine) -> None:
    assert held.read() is None
    assert "delete table" in machine.calls("nft")[-1]
    assert "chain" not in machine.calls("nft")[-1]
    assert not list(machine.units.iterdir())


# --- restores -------------------------------------------------------------------------------------


def test_all_is_restored_once_and_released(machine: Machine) -> None:
    with machine.dumped():
        pass
    outcome = restore.restore_held(None)
    assert outcome.restored == (machine.pid_name, "web.service")
    assert not outcome.failed
    assert not outcome.started
    assert machine.saves == 1
    require_all_released(machine)
    assert not list(manifest.directory(machine.mountpoint).glob("*/"))
    assert restore.restore_held(None) == restore.restore_held(machine.mountpoint)
    assert len([step for step in machine.criu_steps() if "restore" in step]) == 2


def test_two_restores_at_the_same_time_restore_each_once(machine: Machine) -> None:
    with machine.dumped():
        pass
    ready, go = os.pipe()
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            os.close(go)
            os.read(ready, 1)
            restore.restore(machine.mountpoint)
            os._exit(0)
        children.append(child)
    os.close(ready)
    os.close(go)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert len([step for step in machine.criu_steps() if step.startswith("restore")]) == 2


def test_what_cannot_be_restored_is_kept_and_the_rest_comes_up(machine: Machine) -> None:
    with machine.dumped():
        pass
    machine.fail("restore:web.service")
    outcome = restore.restore_held(None)
    assert outcome.restored == (machine.pid_name,)
    (failed,) = outcome.failed
    assert failed.name == "web.service"
    assert failed.reason == "inet: Connected TCP socket"
    assert Path(failed.images, "pages.img").exists()
    assert Path(failed.log).exists()
    assert outcome.started == ()
    state = manifest.read(machine.mountpoint)
    assert state == Manifest(CONSUMED, state.dumped if state else ())
    assert [one.name for one in state.dumped] == ["web.service"]
    require_all_released(machine)


def test_a_lost_image_lets_the_services_start_afresh(machine: Machine) -> None:
    with machine.dumped():
        pass
    machine.mounted = False
    outcome = restore.restore_held(None)
    assert outcome.started == ("web.service",)
    assert machine.calls("systemctl")[-1] == "start --no-block web.service"
    require_all_released(machine)


def test_a_service_that_runs_again_keeps_its_dump(machine: Machine) -> None:
    """Systemctl start does nothing then, and that was no restore."""
    with machine.dumped():
        pass
    machine.monkeypatch.setenv("ACTIVE", "active")
    machine.monkeypatch.setattr(units, "_PAUSE_S", 0)
    outcome = restore.restore_held(None)
    assert outcome.restored == (machine.pid_name,)
    (failed,) = outcome.failed
    assert failed.reason == "web.service: runs already"
    assert Path(failed.images, "pages.img").exists()


def test_services_start_afresh_although_the_firewall_fails(machine: Machine) -> None:
    with machine.dumped():
        pass
    machine.mounted = False
    machine.monkeypatch.setenv("NFT_FAILS", "1")
    with pytest.raises(PramError, match="nft failed: no nf_tables"):
        restore.restore_held(None)
    assert machine.calls("systemctl")[-1] == "start --no-block web.service"
    assert held.read() is None


def test_a_restore_from_another_mount_releases_nothing(machine: Machine, tmp_path: Path) -> None:
    with machine.dumped():
        pass
    other = tmp_path / "other"
    other.mkdir()
    assert restore.restore_held(other) == restore.Outcome()
    assert held.read() is not None
    assert "chain" in machine.calls("nft")[-1]
    link = tmp_path / "link"
    link.symlink_to(machine.mountpoint)
    assert len(restore.restore_held(link).restored) == 2
    require_all_released(machine)


def test_a_manifest_that_cannot_be_read_releases_all_the_same(machine: Machine) -> None:
    with machine.dumped():
        pass
    (manifest.directory(machine.mountpoint) / "manifest.json").write_text("{}")
    with pytest.raises(PramError, match=r"manifest\.json: cannot be read: 'state' is missing"):
        restore.restore_held(None)
    require_all_released(machine)


def test_a_boot_holds_what_the_last_kernel_has_left(machine: Machine) -> None:
    with machine.dumped():
        pass
    assert list(held.hold_at_boot()) == ["held: 2 TCP ends", "held: web.service"]
    text = (machine.units / "web.service.d/50-pramfs-checkpoint.conf").read_text()
    assert "ConditionPathExists=!/" in text


def test_a_boot_with_nothing_left_holds_nothing(machine: Machine) -> None:
    assert list(held.hold_at_boot()) == ["nothing is held"]
    assert machine.calls("nft") == []


def test_a_cgroup_of_several_trees_is_dumped_and_restored_as_each(
    machine: Machine, tmp_path: Path
) -> None:
    procs = tmp_path / "cgroup/batch/cgroup.procs"
    procs.parent.mkdir()
    procs.write_text(f"{machine.service.pid}\n{machine.process.pid}\n")
    wanted = Configuration(machine.mountpoint, "", (Wanted("cgroup", "/batch", ()),))
    found = dump.trial(wanted, machine.told.append)
    pids = sorted((machine.service.pid, machine.process.pid))
    assert [one.name for one in found] == [f"batch-{pid}" for pid in pids]
    with dump.dumped(wanted, found, machine.told.append):
        pass
    outcome = restore.restore_held(None)
    assert outcome.restored == tuple(f"batch-{pid}" for pid in reversed(pids))
    assert procs.read_text().strip().isdigit(), "the pid of what calls criu"


def test_a_service_of_several_trees_is_refused(machine: Machine, tmp_path: Path) -> None:
    procs = tmp_path / "cgroup/system.slice/web.service/cgroup.procs"
    procs.write_text(f"{machine.service.pid}\n{machine.process.pid}\n")
    with pytest.raises(NotDumpable, match=r"web\.service: several trees of processes"):
        machine.trial()


# --- connections ----------------------------------------------------------------------------------

# Of a machine with 127.0.0.1:8080 listening at any address, and connected.
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 501 1
   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 502 1
   2: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 503 1
"""
TCP6 = """\
  sl  local_address remote_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode
   0: 0000000000000000FFFF00000F02000A:1B58 0000000000000000FFFF00000202000A:D431 01 0:0 0:0 0 0 0 601
   1: B80D0120000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 602
"""


def test_local_ends_are_read_from_the_kernels_tables() -> None:
    assert endpoints.parse(TCP, {"501", "502"}) == {("", 8080), ("127.0.0.1", 8080)}
    assert endpoints.parse(TCP6, {"601", "602"}) == {("10.0.2.15", 7000), ("2001:db8::1", 80)}


def test_the_rule_drops_ports_and_ends_of_both_families(machine: Machine) -> None:
    firewall.hold([("", 80), ("10.0.0.1", 81), ("2001:db8::1", 82)])
    (rules,) = machine.calls("nft")
    assert "tcp dport { 80 } drop" in rules
    assert "ip daddr . tcp dport { 10.0.0.1 . 81 } drop" in rules
    assert "ip6 daddr . tcp dport { 2001:db8::1 . 82 } drop" in rules


def test_a_command_for_systemd_is_left_as_it_is(machine: Machine) -> None:
    words = ["criu", "restore", "-D", str(machine.mountpoint / 'a "b" $c %d'), "-o", "/dev/null"]
    with pytest.raises(PramError, match="systemctl start failed"):
        units.start_restored("web.service", words, Path("/run/x"))
    text = (machine.units / "web.service.d/50-pramfs-checkpoint.conf").read_text()
    assert 'a \\"b\\" $$c %%d"' in text


def test_the_reason_is_the_first_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "(00.1) x\n(00.2) Error (criu/a.c:7): first\n(00.3) Error (criu/b.c:8): second\n"
    )
    assert criu.reason(log) == "first"
    assert "says no more" in criu.reason(tmp_path / "absent")


def test_the_outcome_is_json_and_an_exit_code(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with machine.dumped():
        pass
    machine.fail("restore:web.service")
    assert main(["restore", "--json"]) == 32
    told = conforming("restore", capsys.readouterr().out)
    assert told["restored"] == [machine.pid_name]
    assert [one["name"] for one in told["failed"]] == ["web.service"]
    assert main(["restore", "--json"]) == 0
    assert conforming("restore", capsys.readouterr().out)["failed"] == []
