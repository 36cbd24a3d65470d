"""Run a command of the host: quietly when it works, with all it said when it does not."""

import os
import subprocess
from pathlib import Path


class FailureError(Exception):
    """The scenario cannot go on; the message says why."""


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command; returns its standard output. Raises FailureError with its words."""
    result = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | env if env else None,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        words = (result.stdout + result.stderr).strip()
        raise FailureError(f"{command[0]} exited with {result.returncode}: {words}")
    return result.stdout
