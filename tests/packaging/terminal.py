"""An interactive shell on a terminal of its own, asked what it completes a line to."""

import os
import pty
import re
from collections.abc import Mapping
from pathlib import Path

_READ_BYTES = 1 << 16
_TO_LINE_START = b"\x01"


class Terminal:
    """A program on a pseudoterminal. Reading blocks; the test's timeout is the limit."""

    def __init__(self, argv: list[str], cwd: Path, env: Mapping[str, str]) -> None:
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.chdir(cwd)
            os.execvpe(argv[0], argv, env)
        self._rest = b""

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def read_until(self, mark: bytes) -> bytes:
        """What it writes up to `mark`, which is taken away."""
        while mark not in self._rest:
            self._rest += os.read(self._fd, _READ_BYTES)
        seen, _, self._rest = self._rest.partition(mark)
        return seen

    def close(self) -> None:
        os.close(self._fd)  # the shell gets SIGHUP
        os.waitpid(self._pid, 0)


class CompletingShell:
    """A shell in which `key` inserts all completions of the word before the cursor."""

    def __init__(
        self, argv: list[str], cwd: Path, env: Mapping[str, str], setup: str, key: bytes
    ) -> None:
        self._terminal = Terminal(argv, cwd, env)
        self._key = key
        self._finish_with(setup.encode() + b"\n")

    def complete(self, line: str) -> list[str]:
        """The words that stand in the place of the line's last one after the key."""
        shown = self._finish_with(
            line.encode() + self._key + _TO_LINE_START + b"printf '<%s>\\n' \n"
        )
        words = re.findall(r"^<(.*)>\r?$", shown.decode(), re.MULTILINE)
        return words[len(line.split(" ")) - 1 :]

    def close(self) -> None:
        self._terminal.close()

    def _finish_with(self, keys: bytes) -> bytes:
        """Type this, and return what is shown until it is done."""
        self._terminal.type(keys + b"echo do''ne\n")  # not to be taken for its own echo
        return self._terminal.read_until(b"done")
