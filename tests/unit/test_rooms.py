"""The rooms of pramfs: which module may import which, and who may know of FUSE.

`ROOMS` is the one place that says so. A module that is not in it has no room.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pramfs

# Every module, lowest room first, and what of pramfs it may import (imports inside functions
# count). Beside that everybody may import `errors`, and the package itself for its version.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "layout": set(),
    "regions": {"layout"},
    "frames": {"layout", "regions"},
    "runs": {"frames"},
    "image": {"layout"},
    "superblock": {"layout", "regions", "image"},
    "holes": {"layout", "frames"},
    "arena": {"layout", "image", "frames", "holes", "runs"},
    "chains": {"layout", "frames", "runs", "image"},
    "nodes": {"layout", "frames", "runs", "image", "chains"},
    "reserve": {"layout", "image", "frames", "arena", "chains", "nodes"},
    "relocate": {"regions", "runs", "arena", "chains", "nodes", "reserve"},
    "streams": {"layout", "frames", "runs", "arena", "chains", "nodes"},
    "publish": {"layout", "frames", "runs", "image", "superblock", "arena", "nodes", "relocate"},
    "pram": {
        *("layout", "regions", "image", "superblock", "frames", "arena"),
        *("nodes", "reserve", "relocate", "streams", "publish"),
    },
    "verify": {"layout", "image", "chains"},
    "acl": set(),
    "scattered": set(),
    "pagemap": {"frames", "runs", "scattered"},
    "inodes": {"layout", "pagemap"},
    "clock": set(),
    "account": {"layout", "arena", "chains"},
    "data": {"layout", "frames", "arena", "pagemap", "inodes", "account"},
    "inodeops": {"layout", "arena", "acl", "inodes", "clock", "account", "data"},
    "names": {"inodes"},
    "tree": {"layout", "arena", "inodes", "clock", "inodeops", "names", "scattered"},
    "records": {"layout", "inodes", "scattered"},
    "persist": {
        *("layout", "regions", "frames", "runs", "arena", "chains", "publish", "pram", "verify"),
        *("pagemap", "inodes", "tree", "records"),
    },
    "options": {"layout", "regions"},
    "progress": set(),
    "notify": set(),
    "errand": set(),
    "mounts": {"errand"},
    "rundir": {"image"},
    "kernel": set(),
    "show": set(),
    "logs": {"show"},
    "stacks": set(),
    "control": {"errand", "mounts"},
    "follow": {"control", "errand", "progress", "rundir"},
    "handshake": set(),
    "session": {"handshake"},
    "listings": {"inodes"},
    "answers": {"frames", "control"},
    "fusefs": {
        *("layout", "frames", "inodes", "inodeops", "tree"),
        *("control", "listings", "answers"),
    },
    "survey": {
        *("layout", "frames", "runs", "image", "superblock", "chains", "nodes", "verify", "show"),
    },
    "paths": {"inodes", "show"},
    "rescue": {
        *("layout", "image", "chains", "inodes", "records", "persist", "show", "survey", "paths"),
    },
    "volume": {
        *("image", "superblock", "frames", "pram", "tree", "persist", "options"),
        *("progress", "mounts", "rundir", "rescue"),
    },
    "daemon": {
        *("frames", "options", "volume", "fusefs", "session"),
        *("progress", "notify", "mounts", "kernel", "rundir"),
    },
    "mount": {"options", "volume", "stacks", "logs", "progress", "notify", "mounts", "daemon"},
    "umount": {"mounts", "kernel", "rundir", "control", "follow"},
    "inspect": {
        *("layout", "image", "superblock", "frames", "nodes", "reserve", "pram", "verify"),
        *("tree", "persist"),
    },
    "dump": {"layout", "image", "superblock", "survey"},
    "picture": {
        *("layout", "image", "superblock", "frames", "inodes", "options", "progress"),
        *("mounts", "control", "show", "survey", "rescue"),
    },
    "svg": {"picture", "show"},
    "daemonize": set(),
    "launch": {"daemonize", "logs", "notify", "options", "mount"},
    "physmem": {"regions"},
    "kexec": {"image", "superblock", "mounts", "physmem"},
    "helptext": {"options"},
    "versions": {"layout"},
    "parser": {"helptext"},
    "helpers": {"show", "control", "kernel", "options", "launch", "umount"},
    "cmd_mounts": {
        *("parser", "show", "helptext", "options", "control", "follow", "launch", "umount"),
    },
    "cmd_images": {
        *("parser", "show", "image", "superblock", "inspect", "progress", "dump", "picture"),
        "svg",
        *("mounts", "control", "rundir"),
    },
    "cmd_files": {"parser", "show", "image", "superblock", "options", "rescue"},
    "cmd_nodes": {
        *("parser", "show", "layout", "image", "pram", "persist", "options", "progress"),
        *("superblock", "inspect", "volume"),
    },
    "cmd_kexec": {"parser", "kexec"},
    "cli": {
        *("parser", "show", "helptext", "versions", "mounts"),
        *("cmd_mounts", "cmd_images", "cmd_files", "cmd_nodes", "cmd_kexec"),
    },
    "completion": {"options", "cli"},
    "manual": {"layout", "options", "helptext", "cli", "completion"},
    "entry": {"cli", "helpers"},
    "__main__": {"entry"},
}
FOR_EVERYBODY = {"errors"}

FUSE_PACKAGES = {"pyfuse3", "trio"}
FUSE_ROOMS = {"fusefs", "session", "stacks", "daemon"}

FOLDER = Path(pramfs.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def imported_names(module: str) -> set[str]:
    """Full dotted names that the module imports; for `from X import a`, both X and X.a."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((FOLDER / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(filter(None, ["pramfs" if node.level else "", node.module]))
            names |= {package} | {f"{package}.{alias.name}" for alias in node.names}
    return names


def imported_rooms(module: str) -> set[str]:
    parts = [name.split(".") for name in imported_names(module)]
    return {name[1] for name in parts if name[0] == "pramfs" and name[1:2]} & set(MODULES)


def test_every_module_has_a_room() -> None:
    assert set(MODULES) <= set(ROOMS)


def test_a_room_imports_only_from_rooms_above() -> None:
    above: set[str] = set()
    for room, imports in ROOMS.items():
        assert imports <= above, f"{room} may not import what stands below it"
        above.add(room)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_its_room_may(module: str) -> None:
    assert imported_rooms(module) - FOR_EVERYBODY - {module} <= ROOMS[module]


@pytest.mark.parametrize("module", sorted(set(MODULES) - FUSE_ROOMS))
def test_a_module_outside_the_fuse_rooms_names_no_fuse_package(module: str) -> None:
    assert not {name.split(".")[0] for name in imported_names(module)} & FUSE_PACKAGES


def test_importing_the_rooms_without_fuse_loads_no_fuse_package() -> None:
    """So `pramfs info` starts at once, and a broken FUSE room leaves `pramfs check`."""
    modules = [f"pramfs.{module}" for module in MODULES if module not in {"__main__", *FUSE_ROOMS}]
    code = f"import sys, {', '.join(modules)}; print({FUSE_PACKAGES} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("set()\n", "")
