"""`pramfs status` without a mountpoint: every running mount that is visible to the caller, a line each."""

import os
import signal
from pathlib import Path

from tests.mounted.admin_shell import Shell, has_ended
from tests.mounted.harness import wait_until
from tests.support.json_schemas import conforming


def test_status_lists_every_running_mount(shell: Shell, root: Path) -> None:
    assert shell.pramfs("status").succeeded().text == ""
    other, bound = shell.home / "other", shell.home / "bound"
    for directory in (other, bound):
        shell.path(directory).mkdir()
    shell.pramfs("mount", "-o", "size=8M", shell.home / "one", root).succeeded()
    shell.pramfs("mount", "-o", "size=8M", shell.home / "two", other).succeeded()
    shell.run("mount", "--bind", root, bound).succeeded()
    shell.path(other / "file").touch()

    one, two = shell.pramfs("status").succeeded().text.splitlines()
    assert f"{shell.home / 'one'}, process" in one
    assert "unchanged since" in one
    assert two.startswith(f"{other}: {shell.home / 'two'}")
    assert ", changed since" in two

    listed = conforming("status-list", shell.pramfs("status", "--json").succeeded().text)
    assert [mount["image"] for mount in listed] == [
        str(shell.home / "one"),
        str(shell.home / "two"),
    ]
    assert listed[1] == {**shell.status(other), "saved_age_seconds": listed[1]["saved_age_seconds"]}

    pid = listed[1]["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: has_ended(pid), "the daemon to end")
    assert f"{other}: a dead mount" in shell.pramfs("status").succeeded().text
    dead = conforming("status-list", shell.pramfs("status", "--json").succeeded().text)[1]
    assert dead["mountpoint"] == str(other)
    assert "daemon is gone" in dead["error"]
