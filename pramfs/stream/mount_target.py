"""Receive into a mount: pages go to a file without a name in it, of which the daemon makes a tree at the end.

The file is written as any other, so the daemon makes room, and writes pages out, as for any program. If the
stream does not arrive whole, all is gone with this process.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from pramfs.control import client, save_progress
from pramfs.control.served_image import open_served
from pramfs.control.status import MountStatus
from pramfs.control.tree_offer import NEW_PAGES, TreeOffer
from pramfs.errors import NameTaken, NoBase, NoRoomForStream, PramError
from pramfs.offline.scan import scan_image
from pramfs.pram.links import Entries
from pramfs.saves.tree_nodes import tree_names
from pramfs.storage import superblock
from pramfs.storage.extents import extents_of
from pramfs.storage.layout import PAGE_SIZE
from pramfs.stream.format import Header
from pramfs.stream.identity import find_tree
from pramfs.stream.page_plan import Runs
from pramfs.stream.receive import Received


@contextlib.contextmanager
def mount_target(mountpoint: Path) -> "Iterator[MountTarget]":
    """Open a file in the mount to receive a stream. Raises PramError."""
    status = save_progress.status_to_save(mountpoint, "it receives nothing")
    flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
    try:
        descriptor = os.open(mountpoint, flags, 0o600)
    except OSError as exc:
        raise PramError(f"{mountpoint}: cannot receive there: {exc.strerror}") from exc
    try:
        yield MountTarget(mountpoint, status, descriptor)
    finally:
        os.close(descriptor)


class MountTarget:
    """A mount that receives a stream."""

    def __init__(self, mountpoint: Path, status: MountStatus, descriptor: int) -> None:
        self.place = mountpoint
        self._status = status
        self._descriptor = descriptor
        self._base = ""
        self._pages = 0

    def has_tree(self, name: str) -> bool:
        with open_served(self._status) as image:
            return superblock.look_between_saves(
                image, lambda: name in (self._status.name, *tree_names(scan_image(image, ()).nodes))
            )

    def find_base(self, identity: bytes, entries: int, name: str) -> Entries | None:
        # The tree that is mounted gives frames back whenever somebody writes.
        with open_served(self._status) as image:
            found = superblock.look_between_saves(
                image, lambda: find_tree(image, identity, entries, name, but=self._status.name)
            )
        if found is None:
            return None
        self._base = found.name
        return found.entries

    def require_room(self, header: Header) -> None:
        # Snapshots that the daemon may free give room, too: when the pages come it knows.
        total = self._status.frames.total
        if header.pages > total:
            hint = "mount it with a larger size="
            raise NoRoomForStream(self.place, header.pages, total, hint)

    def take_pages(self, pages: memoryview) -> None:
        self._write(pages)
        self._pages += len(pages) // PAGE_SIZE

    def publish(self, received: Received) -> None:
        runs = _with_frames(received)
        for part in (received.metadata, received.more, runs):
            self._write(memoryview(part))
        offer = TreeOffer(
            inode=os.fstat(self._descriptor).st_ino,
            name=received.name,
            base=self._base,
            pages=self._pages,
            metadata_bytes=len(received.metadata),
            more_bytes=len(received.more),
            runs_bytes=len(runs),
            marks=received.marks,
        )
        refusals: dict[int, Exception] = {
            errno.EEXIST: NameTaken(self.place, received.name),
            errno.ENOENT: NoBase(self.place, self._base),
            errno.ENOSPC: PramError(
                f"{self.place}: no room for the tree: free snapshots, or files"
            ),
        }
        shown = save_progress.shown(self.place, self._status)
        client.request_tree(self.place, offer, shown, refusals)

    def _write(self, data: memoryview) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as exc:
            raise PramError(f"{self.place}: cannot receive there: {exc.strerror}") from exc


def _with_frames(received: Received) -> bytes:
    """Return the runs as the daemon wants them: frames in place of the numbers of pages of the base."""
    runs = Runs()
    behind = len(received.base)
    for index, number, pages in received.runs:
        if number >= behind:
            runs.add(index, number - behind + NEW_PAGES, pages)
            continue
        at = index
        for pfn, count in extents_of(received.base.pfns[number : number + pages]):
            runs.add(at, pfn, count)
            at += count
    return runs.words.tobytes()
