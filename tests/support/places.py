"""Places for streams in the hands of a test: in memory, of fsspec, and with faults that the test plans."""

from collections.abc import Callable
from typing import Any

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from pramfs.remote.fsspec_store import FsspecStore
from pramfs.remote.place import Place
from pramfs.remote.store import Entry, Store


def memory_files() -> Any:
    """A file system of fsspec in memory, of its own."""

    class Own(MemoryFileSystem):  # type: ignore[misc]
        store: dict[str, Any] = {}  # noqa: RUF012 # as the class that it stands for has it
        pseudo_dirs = [""]  # noqa: RUF012
        cachable = False

    return Own()


def memory_store(files: Any, root: str = "/place") -> Store:
    return FsspecStore(lambda: files, root, has_folders=True, is_atomic=False)


def local_files_store(root: str) -> Store:
    files = fsspec.filesystem("file", skip_instance_cache=True)
    return FsspecStore(lambda: files, root, has_folders=True, is_atomic=False)


class FaultyStore:
    """A store before whose calls a test may do something: raise an error, change what is there."""

    def __init__(self, store: Store, before: Callable[[str, str], None]) -> None:
        self.store = store
        self.before = before  # is told the method and the name
        self.renewals = 0

    def entries(self, folder: str = "") -> list[Entry]:
        self.before("entries", folder)
        return self.store.entries(folder)

    def get(self, name: str) -> bytes:
        self.before("get", name)
        return self.store.get(name)

    def put(self, name: str, data: bytes | memoryview) -> None:
        self.before("put", name)
        self.store.put(name, data)

    def remove(self, name: str) -> None:
        self.before("remove", name)
        self.store.remove(name)

    def remove_folder(self, folder: str) -> None:
        self.store.remove_folder(folder)

    def renew(self) -> None:
        self.renewals += 1

    def close(self) -> None:
        self.store.close()


def faulty_place(store: Store, before: Callable[[str, str], None]) -> tuple[Place, FaultyStore]:
    faulty = FaultyStore(store, before)
    return Place("place", faulty), faulty
