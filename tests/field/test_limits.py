"""Hard limits, which nobody may raise: a mount works within them, or says in a line which is too low."""

from pathlib import Path

import pytest

from tests.field.surroundings import Caller
from tests.mounted.admin_shell import Shell, open_to_nobody
from tests.mounted.harness import MIB, NOBODY, wait_until

SYSTEM = 2
_WORK_UNTIL_IT_ENDS = """
import contextlib, os, sys
directory = sys.argv[1] + "/directory"
os.mkdir(directory)
with contextlib.suppress(OSError):
    while True:
        open(directory + "/file", "w").close()
        os.unlink(directory + "/file")
"""


class Limited:
    """An ordinary user, who may raise no limit, with an image and a mountpoint."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        home = open_to_nobody(shell.home / "user")
        self.image, self.root = home / "image", home / "mnt"
        shell.run("mkdir", self.root, user=NOBODY).succeeded()

    def caller(self, **limits: int) -> Caller:
        """The user with these hard limits, as by `NOFILE=100`."""
        calls = (
            f"resource.setrlimit(resource.RLIMIT_{name}, ({value}, {value}))"
            for name, value in limits.items()
        )
        return Caller(self._shell, "; ".join(calls), NOBODY)


@pytest.fixture
def limited(shell: Shell) -> Limited:
    return Limited(shell)


def test_no_more_is_taken_than_limits_leave(shell: Shell, limited: Limited) -> None:
    """facebook/sapling #353, metwork-framework/log_proxy #5: hard limits as services and containers have."""
    caller = limited.caller(NOFILE=64, MEMLOCK=0, CORE=0, STACK=MIB, SIGPENDING=8, MSGQUEUE=0)
    image, root = limited.image, limited.root
    for command in (["mount", "-o", "size=64M", str(image), str(root)], ["save", str(root)]):
        caller.run(*command).succeeded()
    shell.run("cp", "/bin/sh", root, user=NOBODY).succeeded()
    assert "saved to" in caller.run("umount", root).succeeded().text
    caller.run("check", image).succeeded()


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("NOFILE", 10, ["64 needed", "ulimit -n"]),
        ("NOFILE", 40, ["only 40 open files", "64 needed", "ulimit -n"]),
        ("AS", 150 * MIB, ["memory", "ulimit -v"]),
        ("DATA", 30 * MIB, ["memory", "ulimit -v and -d"]),
        ("NPROC", 1, ["processes", "ulimit -u"]),
    ],
)
def test_a_limit_that_is_too_low_for_a_mount_is_named(
    limited: Limited, limit: str, value: int, words: list[str]
) -> None:
    caller = limited.caller(**{limit: value})
    told = caller.run("mount", "-o", "size=64M", limited.image, limited.root)
    told.refused(SYSTEM, "cannot mount", *words)
    assert not limited.image.exists()


def test_when_the_processor_time_is_used_up_all_is_saved(shell: Shell, limited: Limited) -> None:
    """After the hard limit the kernel sends SIGKILL; before it, in good time, SIGXCPU."""
    caller = limited.caller(CPU=4)
    caller.run("mount", "-o", "size=64M", limited.image, limited.root).succeeded()
    shell.run("cp", "/bin/sh", limited.root, user=NOBODY).succeeded()
    shell.run("python3", "-c", _WORK_UNTIL_IT_ENDS, limited.root, user=NOBODY).succeeded()
    wait_until(lambda: "saved at unmount" in shell.pramfs("info", limited.image).text, "the save")
    assert shell.pramfs("cat", limited.image, "sh").succeeded().out == Path("/bin/sh").read_bytes()
