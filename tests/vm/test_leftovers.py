"""What building the virtual machine must not leave on the host when it is interrupted. Builds none."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounted.failing_medium import new_medium
from tests.mounted.harness import Volume, stopped
from tests.support.checkout import CHECKOUT
from tests.vm.shell import FailureError, run

# Stands for debootstrap: it mounts, and starts what goes on when it is killed itself.
BUILD = "exec >'{pipe}' && mount -t tmpfs none '{place}' && echo mounted && sleep 1000 & wait"
PROGRAM = (
    "import signal, sys; from tests.vm.shell import run\n"
    "for number in (signal.SIGINT, signal.SIGTERM):\n"  # which a job in the background ignores
    "    signal.signal(number, signal.default_int_handler)\n"
    "run('sh', '-c', sys.argv[1], confined=True)"
)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_running_or_mounted_when_a_build_is_ended(
    tmp_path: Path, number: signal.Signals
) -> None:
    pipe, place = tmp_path / "pipe", tmp_path / "place"
    os.mkfifo(pipe)
    place.mkdir()
    builder = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, BUILD.format(pipe=pipe, place=place)],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        stderr=subprocess.DEVNULL,
    )
    with pipe.open("rb") as output:
        assert output.readline() == b"mounted\n"
        builder.send_signal(number)
        assert builder.wait() != 0
        # Its end comes when nobody is left who could write.
        assert output.read() == b""
    assert os.fsencode(place) not in Path("/proc/self/mountinfo").read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_a_build_keeps_no_daemon_of_the_host_alive(tmp_path: Path) -> None:
    """Who unmounts a pramfs meanwhile would wait until the build is over."""
    volume = Volume(tmp_path, "image", "16M")
    try:
        volume.mount()
        assert str(volume.root) not in run("cat", "/proc/self/mountinfo", confined=True)
        with stopped(volume.pid):  # it is not asked
            run("true", confined=True)
        assert volume.is_mounted
    finally:
        volume.finish()


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_a_build_keeps_no_other_file_system_of_a_test(tmp_path: Path) -> None:
    """Its loop device would stay, or its server go on, until the build is over."""
    place = tmp_path / "a medium"
    with new_medium(place):
        disk = place.with_name("ünd\tisk")
        disk.mkdir()
        run("mount", "-t", "tmpfs", "test", disk)
        try:
            seen = run("cut", "-d", " ", "-f", "5", "/proc/self/mountinfo", confined=True)
        finally:
            run("umount", disk)
    assert str(tmp_path) not in seen
    assert "/proc" in seen.splitlines()


@pytest.mark.parametrize("words", ["echo progress; echo no room >&2", "echo no room"])
def test_a_command_that_fails_is_reported_with_its_words(words: str) -> None:
    with pytest.raises(FailureError, match=r"^sh exited with 3: no room$"):
        run("sh", "-c", f"{words}; exit 3")


def test_a_command_reads_what_it_is_given() -> None:
    assert run("tr", "a-z", "A-Z", text="abc") == "ABC"
