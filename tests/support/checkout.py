"""The checkout that is tested, its virtual environment and program, and copies of it."""

import shutil
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
VENV = Path(sys.executable).parents[1]
PRAMFS = str(VENV / "bin/pramfs")


def copy_checkout(to: Path) -> None:
    """Copy this checkout to a directory that does not exist yet, as it is, without what git ignores."""
    shutil.copytree(CHECKOUT, to, ignore=_not_sources, symlinks=True)


def _not_sources(directory: str, names: list[str]) -> list[str]:
    return [
        name
        for name in names
        if name in {".git", ".hypothesis", "__pycache__", "build", "dist"}
        or name.endswith(("_cache", ".egg-info", ".pram"))
        or Path(directory, name, "pyvenv.cfg").exists()
    ]
