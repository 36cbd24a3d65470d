"""Start programs in surroundings that somebody has made, and see whether a mount lives a whole life there."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.mounted.admin_shell import Shell
from tests.mounted.harness import Outcome
from tests.support.checkout import PRAMFS

_PREPARE = """
import contextlib, os, resource, signal, sys
{what}
os.execv(sys.argv[1], sys.argv[1:])
"""
_CONTENT = b"kept" * 100_000


class Caller:
    """Somebody who starts `pramfs` after having done `what`, a piece of Python, to the own process."""

    def __init__(self, shell: Shell, what: str = "", user: int = 0) -> None:
        self._shell = shell
        self._what = what
        self._user = user

    def run(self, *arguments: str | bytes | Path, env: Mapping[str, str] | None = None) -> Outcome:
        what = f"{self._what}\nos.environ.update({dict(env or {})})"
        program = [sys.executable, "-c", _PREPARE.format(what=what), PRAMFS]
        return self._shell.run(*program, *arguments, user=self._user)

    def lives_a_whole_life(
        self, image: Path, root: Path | bytes, *options: str, env: Mapping[str, str] | None = None
    ) -> None:
        """Assert that mount, save, status, umount, check and another mount do their work, and say so."""
        words = ",".join(["size=64M", *options])
        file = self._shell.path(Path(os.fsdecode(root))) / "file"
        self.run("mount", "-o", words, image, root, env=env).succeeded()
        file.write_bytes(_CONTENT)
        self.run("save", root, env=env).succeeded()
        self.run("status", root, env=env).succeeded()
        self.run("umount", root, env=env).succeeded()
        self.run("check", image, env=env).succeeded()
        self.run("mount", image, root, env=env).succeeded()
        assert file.read_bytes() == _CONTENT
        self.run("umount", root, env=env).succeeded()
