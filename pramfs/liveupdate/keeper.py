"""A process that keeps memory files when the command that started it has ended, or was killed.

It has a systemd scope of its own where systemd runs, and is spared at the end of a shutdown, when everything
else is killed: systemd leaves programs of root alone whose command line begins with '@'.
"""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from pramfs.errors import EXIT_FAILED, PramError, SystemFault, words_of
from pramfs.system import systemd
from pramfs.system.forked_call import require_single_thread
from pramfs.system.surroundings import put_null

ENDING_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

_ANSWER_BYTES_MAX = 1 << 20


class Line:
    """One end of a line between a command and a keeper, on which JSON texts go to and fro."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._file = end.makefile("rb")

    def say(self, message: object) -> None:
        """Send a message; if nobody listens any more, that is all right."""
        with contextlib.suppress(OSError):
            self._end.sendall(json.dumps(message).encode() + b"\n")

    def hear(self) -> Any:
        """Return the next message, None if the other end is gone."""
        with contextlib.suppress(ConnectionResetError):
            text = self._file.readline(_ANSWER_BYTES_MAX)
            if text.endswith(b"\n"):
                return json.loads(text)
        return None

    def say_refusal(self, error: Exception) -> None:
        """Send an error, which the other end raises as a PramError."""
        told = str(error) if isinstance(error, PramError) else words_of(error)
        code = error.exit_code if isinstance(error, PramError) else EXIT_FAILED
        self.say({"refused": told, "code": code})

    def answer(self) -> Any:
        """Return the next message. Raises PramError if it is a refusal or none comes."""
        message = self.hear()
        if message is None:
            raise SystemFault("the process that keeps the images has ended")
        if isinstance(message, dict) and "refused" in message:
            error = PramError(message["refused"])
            error.exit_code = message["code"]
            raise error
        return message

    @property
    def descriptor(self) -> int:
        """That of this end."""
        return self._end.fileno()

    def close(self) -> None:
        self._file.close()
        self._end.close()


def start(body: Callable[[Line], None]) -> Line:
    """Fork a keeper that runs `body` and ends; return the line to it."""
    require_single_thread()
    ours, theirs = socket.socketpair()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        child = os.fork()
        if not child:
            try:
                if os.fork():  # by two forks nobody has to wait for the keeper's end
                    os._exit(0)
            except OSError as exc:
                Line(theirs).say_refusal(exc)
                os._exit(0)
            ours.close()
            _be_keeper(body, Line(theirs))
        os.waitpid(child, 0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    theirs.close()
    return Line(ours)


def wait_for_end_signal() -> None:
    """Wait until somebody tells this process to end. The signals are blocked in a keeper."""
    signal.sigwait(ENDING_SIGNALS)


def is_told_to_end() -> bool:
    """Return whether somebody has told this process to end, and `wait_for_end_signal` would not wait."""
    return bool(signal.sigpending() & ENDING_SIGNALS)


def _be_keeper(body: Callable[[Line], None], line: Line) -> NoReturn:
    try:
        os.setsid()
        put_null(0, os.O_RDONLY)
        for descriptor in (1, 2):
            put_null(descriptor, os.O_WRONLY)
        os.chdir("/")
        _be_spared()
        systemd.enter_lasting_scope(
            f"pramfs-keeper-{os.getpid()}", "pramfs images between two kernels"
        )
        body(line)
    except Exception as exc:  # noqa: BLE001 - the process ends here, and must say why
        line.say_refusal(exc)
    finally:
        os._exit(0)


def _be_spared() -> None:
    """Let neither systemd at the end of a shutdown nor the lack of memory kill this process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")
    with contextlib.suppress(OSError):
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start_of_arguments = int(after_name[45])  # field 48 of proc(5)
        with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
            memory.seek(start_of_arguments)
            memory.write(b"@")
