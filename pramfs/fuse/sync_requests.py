"""Requests to make things durable: FSYNC, FSYNCDIR.

The kernel hands over what it has of a file before it asks for its fsync(2). Usually that is answered ENOSYS,
once, and programs see success: see docs/guarantees.md.
"""

import errno
import functools
import os
from collections.abc import Awaitable, Callable

from pramfs.control.control_xattrs import may_control
from pramfs.errors import posix_error
from pramfs.fuse.front import Handler, Later, LongWait
from pramfs.fuse.protocol import Opcode
from pramfs.fuse.request import Request
from pramfs.tree.inodes import File
from pramfs.tree.tree import Tree


class SyncRequests:
    """Answers requests to make a tree durable.

    `of_files`: a file's fsync(2) does. `publish` makes all durable that programs have written, `make_durable`
    what the tree has, and the latter is for all users.
    """

    def __init__(
        self,
        tree: Tree,
        *,
        of_files: bool,
        publish: Callable[[], Awaitable[None]],
        make_durable: Callable[[], Awaitable[None]],
    ) -> None:
        self._tree = tree
        self._of_files = of_files
        self._publish = publish
        self._make_durable = make_durable

    def handlers(self) -> dict[Opcode, Handler]:
        """Return what answers each opcode."""
        return {Opcode.FSYNC: self.fsync, Opcode.FSYNCDIR: self.fsyncdir}

    def fsync(self, request: Request) -> Later:
        if not self._of_files:
            raise posix_error(errno.ENOSYS)
        return functools.partial(self._durable, self._tree.file(request.nodeid), b"")

    def fsyncdir(self, request: Request) -> bytes | Later | LongWait:
        if request.nodeid == self._tree.root.ino:
            if may_control(request.uid, self._tree.root.uid):
                return LongWait(self._published)
            if not self._of_files:
                raise posix_error(errno.EPERM)
        return self._directory_durable if self._of_files else b""

    def written(self, file: File, flags: int, answer: bytes | Later) -> bytes | Later:
        """Return the reply to a write without an FSYNC, or what waits for it, by the flags of open(2)."""
        if flags & os.O_DSYNC and self._of_files:
            return functools.partial(self._durable, file, answer)
        return answer

    async def _durable(self, file: File, answer: bytes | Later) -> bytes:
        """Return the answer when the file is durable. Raises EIO if some of its data has been refused."""
        await self._make_durable()
        if file in self._tree.data.refused.files():
            raise posix_error(errno.EIO)
        return answer if isinstance(answer, bytes) else await answer()

    async def _directory_durable(self) -> bytes:
        await self._make_durable()
        return b""

    async def _published(self) -> bytes:
        await self._publish()
        return b""
