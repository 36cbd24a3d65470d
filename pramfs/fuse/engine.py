"""What answers the requests of one mount: the front with its handlers, and pyfuse3's operations beside it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from pramfs.control.control_xattrs import ControlAttributes
from pramfs.control.dedup_report import DedupReport
from pramfs.control.status import MountStatus
from pramfs.fuse.attribute_requests import AttributeRequests
from pramfs.fuse.dir_handles import OpenDirectories
from pramfs.fuse.directory_requests import DirectoryRequests
from pramfs.fuse.file_requests import FileRequests
from pramfs.fuse.front import Front, Handler
from pramfs.fuse.name_requests import NameRequests
from pramfs.fuse.notices import Notices
from pramfs.fuse.open_files import OpenFiles
from pramfs.fuse.operations import CARRIED, Operations
from pramfs.fuse.page_cache import PageCache
from pramfs.fuse.protocol import Opcode
from pramfs.fuse.range_requests import RangeRequests
from pramfs.fuse.snapshot_requests import (
    SnapshotAttributes,
    SnapshotDirectories,
    SnapshotFiles,
    SnapshotNames,
    SnapshotRanges,
    SnapshotSyncs,
    once_read,
)
from pramfs.fuse.snapshot_view import FIRST_INO, SnapshotView
from pramfs.fuse.sync_requests import SyncRequests
from pramfs.pram.pram import Pram
from pramfs.tree.tree import Tree

# What the kernel is told once not to ask again. After FLUSH programs then see success: what they wrote is in
# the tree already. `pramfs` itself uses syncfs(2), before each save.
UNSUPPORTED = frozenset({
    Opcode.FLUSH,
    Opcode.ACCESS, Opcode.BMAP, Opcode.POLL, Opcode.GETLK, Opcode.SETLK, Opcode.SETLKW,
    Opcode.SYNCFS,
})  # fmt: skip


@dataclass(frozen=True)
class Behaviour:
    """The mount options that change answers."""

    direct_io: bool
    check_open: bool
    noatime: bool
    nodiratime: bool
    fsync_publishes: bool

    @property
    def answers_open(self) -> bool:
        """Whether the kernel is to ask about each open(2); it has checked the rights by itself before."""
        return self.check_open or self.direct_io  # the latter is an answer to OPEN


@dataclass(frozen=True)
class Surroundings:
    """What the engine needs of the daemon: the state of the mount, saves, deduplication."""

    status: Callable[[], MountStatus]
    dedup_report: Callable[[], DedupReport]
    dedup: Callable[[Callable[[], bool]], Awaitable[None]]  # as long as it is wanted
    publish: Callable[[], Awaitable[None]]
    # What control attributes ask for, by name: called with the pid of who sets one, and its value.
    orders: Mapping[bytes, Callable[[int, bytes], Awaitable[None]]]
    make_durable: Callable[[], Awaitable[None]]  # what the tree has
    make_room: Callable[[], Awaitable[bool]]  # returns whether there was a save
    on_change: Callable[[], bool]  # returns whether the change is recorded
    on_internal_error: Callable[[], None]


class Engine:
    """Answers all requests for the tree `name` of a Pram and its snapshots, each opcode in one place."""

    def __init__(
        self, pram: Pram, name: str, tree: Tree, behaviour: Behaviour, daemon: Surroundings
    ) -> None:
        self._tree = tree
        self._on_change = daemon.on_change
        self._is_change_noted = False
        self.answers_open = behaviour.answers_open
        self.cached_writes = not behaviour.direct_io
        self.directories = OpenDirectories()
        self.notices = Notices(daemon.on_internal_error)
        self._cache = PageCache(self.notices)
        self.snapshots = snapshots = SnapshotView(
            pram, name, tree, lambda name: self.notices.drop_name(FIRST_INO, name)
        )
        control = ControlAttributes(daemon.status, daemon.dedup_report, tree.arena.table)
        direct_io, noatime = behaviour.direct_io, behaviour.noatime
        files = OpenFiles(tree, counted=self.answers_open, direct_io=direct_io)
        syncs = SyncRequests(
            tree,
            of_files=behaviour.fsync_publishes,
            publish=daemon.publish,
            make_durable=daemon.make_durable,
        )
        data = FileRequests(
            tree,
            files,
            self.notices,
            self._cache,
            syncs.written,
            direct_io=direct_io,
            noatime=noatime,
        )
        attributes = AttributeRequests(
            tree,
            control,
            self.notices,
            daemon.dedup,
            daemon.orders,
            cached_writes=not direct_io,
            noatime=noatime,
        )
        kinds = (
            data,
            NameRequests(tree, snapshots, files, self._cache.forgotten),
            attributes,
            DirectoryRequests(tree, self.directories, nodiratime=noatime or behaviour.nodiratime),
            syncs,
            RangeRequests(tree, files, self.notices, cached_writes=not direct_io),
        )
        self.front = Front(
            {opcode: handler for kind in kinds for opcode, handler in kind.handlers().items()},
            self._of_snapshots(snapshots, control, behaviour, daemon),
            CARRIED,
            UNSUPPORTED,
            make_room=daemon.make_room,
            note_change=self._note_change,
            on_internal_error=daemon.on_internal_error,
        )
        self.operations = Operations(
            tree,
            cached_writes=not direct_io,
            note_change=self._note_change,
            on_internal_error=daemon.on_internal_error,
        )

    def _of_snapshots(
        self,
        snapshots: SnapshotView,
        control: ControlAttributes,
        behaviour: Behaviour,
        daemon: Surroundings,
    ) -> dict[Opcode, Handler]:
        """Return what answers requests for inodes in snapshots."""
        tree, notices, direct_io = self._tree, self.notices, behaviour.direct_io
        files = OpenFiles(snapshots, counted=self.answers_open, direct_io=direct_io)
        data = SnapshotFiles(snapshots, files, notices, self._cache, tree.data.refused)
        kinds = (
            data,
            SnapshotNames(snapshots, snapshots, files, self._cache.forgotten),
            SnapshotAttributes(
                snapshots,
                control,
                notices,
                daemon.dedup,
                daemon.orders,
                cached_writes=not direct_io,
                noatime=True,
            ),
            SnapshotDirectories(snapshots, self.directories),
            SnapshotSyncs(of_files=behaviour.fsync_publishes),
            SnapshotRanges(snapshots, tree, files, notices, cached_writes=not direct_io),
        )
        handlers = {
            opcode: handler for kind in kinds for opcode, handler in kind.handlers().items()
        }
        return once_read(snapshots, handlers)

    def _note_change(self) -> bool:
        """Have the first change of the tree recorded, before it is answered; return whether it is."""
        if not self._is_change_noted:
            self._is_change_noted = self._tree.changed and self._on_change()
        return self._is_change_noted
