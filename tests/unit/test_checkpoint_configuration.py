"""The file that says what `pramfs kexec --checkpoint` dumps."""

import os
from pathlib import Path

import pytest

from pramfs.checkpoint import configuration
from pramfs.checkpoint.configuration import Wanted
from pramfs.errors import UsageError

GOOD = 'mountpoint = "/mnt"\n[[dump]]\npid = 77\n'


def read(tmp_path: Path, text: str) -> configuration.Configuration:
    path = tmp_path / "checkpoint.toml"
    path.write_text(text)
    return configuration.read(path)


def test_it_names_the_mount_and_what_to_dump_in_order(tmp_path: Path) -> None:
    got = read(
        tmp_path,
        'mountpoint = "/mnt"\nmount_options = "banned=0-16M"\n'
        '[[dump]]\nunit = "web.service"\noptions = ["--tcp-established"]\n'
        '[[dump]]\ncgroup = "/user.slice/one"\n'
        "[[dump]]\npid = 77\n",
    )
    assert got.mountpoint == Path("/mnt")
    assert got.mount_options == "banned=0-16M"
    assert got.wanted == (
        Wanted("unit", "web.service", ("--tcp-established",)),
        Wanted("cgroup", "/user.slice/one", ()),
        Wanted("pid", "77", ()),
    )
    assert [one.name for one in got.wanted] == ["web.service", "user.slice-one", "pid-77"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mountpoint", "not TOML"),
        ("[[dump]]\npid = 77\n", "mountpoint: a line of text"),
        ('mountpoint = "mnt"\n[[dump]]\npid = 77\n', "mountpoint: an absolute path"),
        ('mountpoint = "/mnt"\n', "nothing to dump"),
        ('mountpoint = "/mnt"\ndump = []\n', "nothing to dump"),
        ('mountpoint = "/mnt"\ndump = [1]\n', r"write it as \[\[dump\]\]"),
        ('mountpoint = "/mnt"\n[[dump]]\n', "one of pid, unit, cgroup"),
        (f'{GOOD}unit = "web.service"\n', "one of pid, unit, cgroup"),
        (GOOD.replace("77", "1"), "pid: a number greater than 1"),
        (GOOD.replace("77", "true"), "pid: a number greater than 1"),
        (GOOD.replace("77", '"77"'), "pid: a number greater than 1"),
        (GOOD.replace("pid = 77", 'unit = "web"'), "web is not the name of a service"),
        (GOOD.replace("pid = 77", 'unit = "../web.service"'), "is not the name of a service"),
        (GOOD.replace("pid = 77", 'cgroup = "/a/../.."'), "not a path below /sys/fs/cgroup"),
        (GOOD.replace("pid = 77", 'cgroup = "/"'), "not a path below /sys/fs/cgroup"),
        (f"{GOOD}options = 'x'\n", "options: a list of words"),
        (f"{GOOD}options = [1]\n", "options: a list of words"),
        (f"{GOOD}option = []\n", "unknown key 'option'; there are: pid, unit, cgroup, options"),
        (f"image = 1\n{GOOD}", "unknown key 'image'"),
        (f"{GOOD}[[dump]]\npid = 77\n", "pid-77 is there twice"),
        (f'mount_options = "bannd=0-16M"\n{GOOD}', "unknown option 'bannd'"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=rf"checkpoint\.toml: .*{told}"):
        read(tmp_path, text)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """As when the image comes after --checkpoint, and is taken for the configuration."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(UsageError, match="an image comes first: pramfs kexec IMAGE --check"):
            configuration.read(path)


def test_a_file_that_others_may_write_is_not_done(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.toml"
    path.write_text(GOOD)
    path.chmod(0o646)
    with pytest.raises(UsageError, match="others may write it"):
        configuration.read(path)
    path.chmod(0o644)
    assert configuration.read(path).wanted


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absent: No such file or directory"):
        configuration.read(tmp_path / "absent")
