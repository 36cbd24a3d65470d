"""What strangers may import is exported, documented, cheap to load, and free of FUSE."""

import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.public_modules import MODULES, exported


def members(cls: type) -> Iterator[tuple[str, object]]:
    """The public methods, properties and class methods that are the class's own, or of a base of ours."""
    for base in cls.__mro__:
        if not base.__module__.startswith("pramfs") or issubclass(base, BaseException):
            continue
        for name, member in vars(base).items():
            function = getattr(member, "__func__", member)
            if not name.startswith("_") and (
                inspect.isfunction(function) or isinstance(member, property)
            ):
                yield f"{base.__name__}.{name}", function


def undocumented(module: str) -> Iterator[str]:
    for name, value in exported(module).items():
        if isinstance(value, type):
            generated = f"{name}(" if dataclasses.is_dataclass(value) else None
            documented = inspect.getdoc(value)
            if not documented or (generated and documented.startswith(generated)):
                yield name
            yield from (path for path, member in members(value) if not inspect.getdoc(member))
        elif inspect.isfunction(value) and not value.__doc__:
            yield name


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name: str) -> None:
    assert exported(name)
    assert sorted(set(undocumented(name))) == []


def test_the_library_is_loaded_without_the_rest() -> None:
    code = "import sys, pramfs.pram; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[1] for name in done.stdout.split() if name.startswith("pramfs.")}
    assert loaded == {"pram", "storage", "system", "errors"}
    assert not {"pyfuse3", "trio", "asyncio", "subprocess"} & set(done.stdout.split())


def test_the_page_on_the_interface_names_every_module() -> None:
    page = (CHECKOUT / "docs/api.md").read_text()
    assert [name for name in MODULES if f"`{name}`" not in page] == []
