"""scripts/setup deletes nothing but what it made itself."""

from pathlib import Path

import pytest

from tests.mounted.harness import run
from tests.support.checkout import CHECKOUT


@pytest.mark.parametrize("name", ["pyvenv.cfg", "thesis.tex"])
def test_setup_leaves_alone_an_environment_that_it_did_not_make(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("dear to somebody")
    outcome = run(CHECKOUT / "scripts/setup", env={"PRAMFS_VENV": str(tmp_path)})
    outcome.refused(1, str(tmp_path), "was not made by this script", "PRAMFS_VENV")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "dear to somebody"


def test_setup_leaves_alone_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("dear to somebody")
    outcome = run(CHECKOUT / "scripts/setup", env={"PRAMFS_VENV": str(tmp_path / "file")})
    outcome.refused(1, "was not made by this script")
    assert (tmp_path / "file").read_text() == "dear to somebody"
