"""What scripts/install-helpers puts on a system, put below a directory instead."""

from pathlib import Path

import pytest

from tests.mounted.harness import run
from tests.support.checkout import CHECKOUT, VENV


class System:
    """A root directory that install-helpers filled, or will."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.share = root / "usr/local/share"
        self._environment = {"DESTDIR": str(root), "PRAMFS_VENV": str(VENV)}

    def install_helpers(self, *arguments: str) -> None:
        program = CHECKOUT / "scripts/install-helpers"
        run(program, *arguments, env=self._environment).succeeded()

    @property
    def copies(self) -> set[str]:
        files = (path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink())
        return {str(path.relative_to(self.root)) for path in files}

    @property
    def links(self) -> set[str]:
        return {
            str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_symlink()
        }


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> System:
    """A system with the helpers."""
    system = System(tmp_path_factory.mktemp("system"))
    system.install_helpers()
    return system
