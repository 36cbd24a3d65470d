"""The modules that strangers may import, and what each exports."""

import importlib
import inspect

MODULES = [
    "pramfs.pram",
    "pramfs.offline.reader",
    "pramfs.offline.inspect",
    "pramfs.offline.check",
    "pramfs.control.client",
    "pramfs.errors",
]


def exported(name: str) -> dict[str, object]:
    """What the module of that name exports."""
    module = importlib.import_module(name)
    names: list[str] = getattr(module, "__all__", [])
    if name == "pramfs.errors":
        classes = inspect.getmembers(module, inspect.isclass)
        names = [kind for kind, value in classes if value.__module__ == name]
    return {exported: getattr(module, exported) for exported in names}
