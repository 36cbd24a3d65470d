"""A path is bytes, from the command line to the mount table and back, whatever a locale takes them for."""

import os
from collections.abc import Mapping

import pytest

from tests.field.surroundings import Caller
from tests.mounted.admin_shell import Shell
from tests.mounted.harness import run

# Name and character map of locales that are not UTF-8.
LOCALES = {"de_DE": "ISO-8859-1", "zh_TW": "BIG5"}
NAMES = {
    "Latin-1": b"gr\xf6\xdfe",
    "UTF-8": "größe".encode(),
    "blanks and backslashes": b"a b\\c\td\ne",
    "no encoding": bytes(range(0x80, 0x100)),
    "two codes of one sign": b"\xa2\xcc\xa2\xce",  # in Big5: Python gives only one of them back
}


@pytest.fixture(scope="module", params=LOCALES)
def locale(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, str]:
    """The environment of a locale that has been made for this test."""
    charmap = LOCALES[request.param]
    directory = tmp_path_factory.mktemp("locale", numbered=True)
    for parent in (directory, *directory.parents[:-1]):
        parent.chmod(parent.stat().st_mode | 0o011)
    name = f"{request.param}.{charmap}"
    run("localedef", "-c", "-i", request.param, "-f", charmap, directory / name)
    assert (directory / name).is_dir()
    return {"LOCPATH": str(directory), "LC_ALL": name, "PYTHONUTF8": "0"}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_mountpoint_may_have_any_name(
    shell: Shell, locale: Mapping[str, str], name: bytes
) -> None:
    """util-linux/util-linux #418, fusepy/fusepy #2, borgbackup/borg #4112: names of unexpected bytes."""
    home, here = os.fsencode(shell.home), Caller(shell)
    for directory in (b"mnt-" + name, b"images-" + name):
        os.mkdir(home + b"/" + directory)  # noqa: PTH102 - it takes bytes
    root, image = home + b"/mnt-" + name, home + b"/images-" + name + b"/image"
    here.run("mount", "-o", "size=16M", image, root, env=locale).succeeded()
    shell.run("touch", root + b"/" + name).succeeded()
    here.run("save", root, env=locale).succeeded()
    here.run("umount", root, env=locale).succeeded()
    here.run("check", image, env=locale).succeeded()


def test_one_locale_mounts_and_another_asks(shell: Shell, locale: Mapping[str, str]) -> None:
    """util-linux/util-linux #418: what one process has taken for text is other text for the next."""
    root = os.fsencode(shell.home) + b"/gr\xf6\xdfe"
    os.mkdir(root)  # noqa: PTH102 - it takes bytes
    image = shell.home / "image"
    here, there = Caller(shell), {"LC_ALL": "C.UTF-8"}
    for mounts, asks in ((locale, there), (there, locale)):
        here.run("mount", "-o", "size=16M", image, root, env=mounts).succeeded()
        told = here.run("status", root, env=asks).succeeded()
        assert "mountpoint:" in told.text
        here.run("save", root, env=asks).succeeded()
        here.run("umount", root, env=asks).succeeded()
