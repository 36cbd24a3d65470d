"""What a place must be able to do, whatever it is: keep bytes under names.

A name has at most one folder before it. Names are chosen by pramfs, never by who asks.
"""

from typing import NamedTuple, Protocol

PART_SUFFIX = ".part"  # of a file that is being written, where others would see it


class Entry(NamedTuple):
    """A file or a folder in a place."""

    name: str  # without the folder that was listed
    is_folder: bool
    modified_s: float | None  # since the epoch; None if the place does not tell


class Store(Protocol):
    """Files by name. All raise OSError, or what their library raises."""

    def entries(self, folder: str = "") -> list[Entry]:
        """Return what is in the place, or in a folder of it; nothing if that is not there.

        Raises NotADirectoryError for a file.
        """

    def get(self, name: str) -> bytes:
        """Return the contents of a file. Raises FileNotFoundError."""

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Make or replace a file. It is there as a whole, or it has another name."""

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""

    def remove_folder(self, folder: str) -> None:
        """Remove a folder with what is left in it, where folders are things of their own."""

    def renew(self) -> None:
        """Connect anew after a connection was lost."""

    def close(self) -> None:
        """End all calls that are under way, and let go of the connection; the next call makes one."""
