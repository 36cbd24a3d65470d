"""Who may know of FUSE: its packages are slow to load, and may be broken where `pramfs check` is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pramfs

FUSE_PACKAGES = {"pyfuse3", "trio"}
FUSE_MODULES = {
    "pramfs.fuse.dir_handles",
    "pramfs.fuse.directory_requests",
    "pramfs.fuse.engine",
    "pramfs.fuse.front",
    "pramfs.fuse.notices",
    "pramfs.fuse.operations",
    "pramfs.fuse.page_cache",
    "pramfs.fuse.attribute_requests",
    "pramfs.fuse.range_requests",
    "pramfs.fuse.name_requests",
    "pramfs.fuse.snapshot_requests",
    "pramfs.fuse.snapshot_view",
    "pramfs.fuse.file_requests",
    "pramfs.fuse.binding_version",
    "pramfs.fuse.device_mount",
    "pramfs.fuse.session",
    "pramfs.fuse.sync_requests",
    "pramfs.daemon.stack_dump",
    "pramfs.daemon.checkpoints",
    "pramfs.daemon.deduplication",
    "pramfs.daemon.flusher",
    "pramfs.daemon.flushes",
    "pramfs.daemon.long_save",
    "pramfs.daemon.service",
}

FOLDER = Path(pramfs.__file__).parent
MODULES = {
    ".".join(["pramfs", *path.relative_to(FOLDER).with_suffix("").parts]): path
    for path in sorted(FOLDER.rglob("*.py"))
    if path.stem not in {"__init__", "__main__"}
}


def imported_packages(path: Path) -> set[str]:
    """The top-level packages that a module imports, inside its functions, too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("module", sorted(MODULES.keys() - FUSE_MODULES))
def test_a_module_outside_the_adapter_names_no_fuse_package(module: str) -> None:
    assert not imported_packages(MODULES[module]) & FUSE_PACKAGES


def test_importing_all_but_the_adapter_loads_no_fuse_package() -> None:
    """So `pramfs info` starts at once, and a broken libfuse leaves `pramfs check`."""
    modules = sorted(MODULES.keys() - FUSE_MODULES)
    code = f"import sys, {', '.join(modules)}; print({FUSE_PACKAGES} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("set()\n", "")
