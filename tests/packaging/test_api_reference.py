"""scripts/api-reference builds the reference of the public modules, without a warning."""

from pathlib import Path

from tests.mounted.harness import run
from tests.support.checkout import CHECKOUT, VENV
from tests.support.public_modules import MODULES, exported


def test_the_reference_has_everything_public(tmp_path: Path) -> None:
    built = run(CHECKOUT / "scripts/api-reference", tmp_path, env={"PRAMFS_VENV": str(VENV)})
    assert built.succeeded().text == f"{tmp_path}/index.html\n"
    assert "warn" not in built.err.lower()
    for module in MODULES:
        page = tmp_path / f"{module.replace('.', '/')}.html"
        text = page.read_text()
        assert [name for name in exported(module) if f'id="{name}"' not in text] == []
    pages = {str(page.relative_to(tmp_path)) for page in tmp_path.rglob("*.html")}
    assert pages == {"index.html", *(f"{module.replace('.', '/')}.html" for module in MODULES)}
    assert "reserve all frames of the save" in (tmp_path / "pramfs/pram.html").read_text()
