"""The steps of a start that concern the image: open and lock it, reserve, verify, load. See `startup`.

Nothing is mounted here, nothing of the image is changed except its size, and FUSE is not needed.
"""

import contextlib
import gc
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pramfs.control import kept, run_state
from pramfs.control.holder import holder_of, refuse_if_mounted
from pramfs.control.last_run import ended_badly
from pramfs.control.run_state import RunDirectory
from pramfs.daemon.sd_notify import ServiceManager
from pramfs.errors import (
    DamagedTree,
    ImageInUse,
    ImageOverwritten,
    ImageTooSmall,
    LostSave,
    NotAnImage,
    PramError,
    ReservationFailed,
    SystemFault,
    TooMuchBanned,
    TreeExists,
)
from pramfs.options import MountOptions
from pramfs.pram.pram import Pram
from pramfs.saves.load import Recovered, TreeLoad
from pramfs.saves.save import Saver
from pramfs.saves.snapshot_names import no_such_snapshot
from pramfs.saves.tree_nodes import (
    DATA_SUFFIX,
    drop_tree,
    has_tree,
    tree_names,
    what_it_lacks,
)
from pramfs.saves.write_back import WriteBacks
from pramfs.storage import superblock
from pramfs.storage.frames import BANNED
from pramfs.storage.image import Image, open_image
from pramfs.storage.layout import SUPER_FINAL
from pramfs.storage.machine_mark import mark_of_this_machine, refuse_if_elsewhere
from pramfs.storage.superblock import NOBODY
from pramfs.system.progress import Bar
from pramfs.tree.tree import Owner, Tree

log = logging.getLogger("pramfs")

_LOCK_POLL_S = 0.05
# After the mark, before the look: a machine that has looked before must have written its mark by then.
_SETTLE_S = 0.5
_TRIES_UNTOLD = 4  # before a wait is reported: most processes lock an image only for a moment
# See gc.set_threshold. All objects are looked at after some seven million more: 3.5 million files.
_COLLECTIONS = (700, 10, 1000)


@dataclass(slots=True)
class Volume:
    """An open image with one of its trees loaded."""

    pram: Pram
    tree: Tree
    saver: Saver
    write_backs: WriteBacks
    read_only: bool
    run_directory: RunDirectory | None  # None where there can be none
    log_path: Path | None  # None if the log is not a file

    @property
    def image(self) -> Image:
        """The open image, another one after a save to another."""
        return self.pram.image

    @property
    def state_name(self) -> str:
        """The name of the state in the run directory."""
        return run_state.state_name(self.image, self.pram.current.uuid)


def open_and_lock(path: Path, options: MountOptions) -> Image:
    """Open and lock the image, waiting while its last daemon saves. Raises ImageInUse if it is mounted.

    The lock of a read-only mount is shared, but excludes writers: they would use its frames for other files.

    The mount table decides whether the image is mounted: a daemon learns of an unmount later than the
    caller of umount(2), and marks itself as serving only after it has loaded.

    Raises HandedOver, NotClaimed or KeptElsewhere if the image is on its way between two kernels.
    """
    kept.refuse_if_kept(path)
    for tries in itertools.count():
        image, taken = _try_to_take(path, options)
        if taken:
            image.forget_cached()
            return image
        with image:
            refuse_if_mounted(image)
            if tries == _TRIES_UNTOLD:
                log.warning("%s: %s; waiting for it", path, holder_of(image).words)
        time.sleep(_LOCK_POLL_S)
    raise AssertionError


def reserve(image: Image, options: MountOptions, undo: contextlib.ExitStack) -> Pram:
    """Find the save in force and reserve its frames, or create a new image. Raises PramError.

    `undo`: what is done if the mount fails; then an image is as long as it was.
    """
    # With recover, nothing of a damaged save may be overwritten before the next one is published.
    arena = "memory" if options.recover else options.arena
    with _recovery_hint_added(image, options):
        if _is_new(image, options):
            frames = _new_frames(image, options)
            return Pram.create(image, frames, banned=options.banned, arena=arena)
        size_bytes = image.size_bytes
        undo.callback(_cut_back, image, size_bytes)
        pram = Pram.open(
            image,
            frames=options.frames if options.size_bytes is not None else 0,
            banned=options.banned,
            arena=arena,
            pfn=options.pram,
            accept_truncated=options.recover,
        )
        if options.ro:  # its frames would be overwritten under the mount
            refuse_if_elsewhere(image, pram.current)
        if image.size_bytes > size_bytes and options.size_bytes is not None:
            told = f"grown from {size_bytes:,} to {image.size_bytes:,} bytes, because of size="
            log.info("%s: %s", image.path, told)
        return pram


def log_what_is_known(pram: Pram, options: MountOptions) -> None:
    """Log the banned regions, and warnings if the last run, which is over, did not save or a save is lost."""
    for line in options.banned.table():
        log.info("%s", line)
    image, current = pram.image, pram.current
    told = "" if options.ro else ended_badly(image, current)
    if told:
        log.warning("%s: %s; this is generation %d", image.path, told, current.generation)
    lacks = what_it_lacks(pram.nodes, options.source)
    if lacks and (options.snapshot or not (told and superblock.shortcomings(current))):
        log.warning("%s: the tree '%s' is %s", image.path, options.source, lacks)
    slot = superblock.damaged_slot(image, current)
    if slot is not None and slot not in options.banned:
        log.warning("%s: %s", image.path, LostSave(slot, current.generation))


@contextlib.contextmanager
def marked(pram: Pram, options: MountOptions, undo: contextlib.ExitStack) -> Iterator[None]:
    """Mark an image that other machines can reach as mounted by this one, before the block; look after it.

    If one does the same at that time, the mark that was written later is found. Then, or if another machine
    has marked it already, raises HeldByMachine. `undo`: what is done if the mount fails.
    """
    mark, image, publisher = mark_of_this_machine(), pram.image, pram.publisher
    if options.ro or not image.is_shared or mark == NOBODY:
        yield
        return
    with _refusing_others(pram):
        # With recover, the slot that would take it may hold what somebody wants.
        publisher.mark_mounted(mark, now=not options.recover)
    undo.callback(_unmark, pram)
    begun_s = time.monotonic()
    yield
    time.sleep(max(0.0, begun_s + _SETTLE_S - time.monotonic()))
    with _refusing_others(pram):
        publisher.require_untouched()


@contextlib.contextmanager
def _refusing_others(pram: Pram) -> Iterator[None]:
    """Say in words of a mount that another machine has the image, or another program writes to it."""
    path = pram.image.path
    try:
        yield
    except ImageOverwritten as exc:
        refuse_if_elsewhere(pram.image, pram.current)
        raise ImageInUse(path, "another program, which has written to it just now") from exc
    except OSError as exc:
        raise SystemFault(f"{path}: cannot be marked as mounted: {exc.strerror}") from exc


def _unmark(pram: Pram) -> None:
    with contextlib.suppress(OSError, PramError):  # the reason why the mount fails is told already
        pram.publisher.mark_mounted(NOBODY)


@contextlib.contextmanager
def verify(
    pram: Pram, options: MountOptions, manager: ServiceManager
) -> Iterator[Callable[[], Tree]]:
    """Start other processes that verify the tree; yield a function that loads and returns it.

    Forks, so no other thread may run. Raises DamagedTree, here or from the function; NoSuchSnapshot,
    TreeExists.
    """
    if options.snapshot:
        _check_snapshot(pram, options)
    source = options.source
    tree = Tree(
        pram.arena,
        inodes_max=options.nr_inodes or len(pram.arena.table),
        generation=int.from_bytes(os.urandom(4), "little"),
    )
    if options.noload and not options.ro:
        drop_tree(pram, options.name)  # the first checkpoint frees its frames
    with _recovery_hint_added(pram.image, options), _many_objects():
        if options.noload or not has_tree(pram, source):
            yield lambda: _with_root(tree, options)
            return
        lazy = options.verify == "lazy"
        pages = pram.node(source + DATA_SUFFIX).entries if not lazy else 0
        with Bar("verifying", pages) as bar:
            progress = manager.watching(bar, "verifying")
            with TreeLoad(pram, source, lazy=lazy, shared=options.grows, progress=progress) as load:
                yield lambda: _loaded(tree, load, options)
        for node in pram.nodes.values():
            node.chain = None  # 5 MiB for each GiB of each snapshot; who needs one reads it again


def give_back_abandoned(pram: Pram, options: MountOptions) -> None:
    """Give back what is in free frames after a run that was killed.

    Not where another save than the one in force may be what somebody wants.
    """
    if options.ro or options.recover or options.noload or options.pram is not None:
        return
    if superblock.changed_by(pram.image, pram.current) or not pram.current.flags & SUPER_FINAL:
        pram.arena.give_back_abandoned()


def require_room(volume: Volume) -> None:
    """Raise ImageTooSmall or TooMuchBanned unless the tree can be saved, and then saved again."""
    if volume.read_only:
        return
    table, needed = volume.pram.arena.table, volume.tree.space.frames_to_keep_free()
    free = table.unused
    if free < needed:
        kind = TooMuchBanned if table.count(BANNED) else ImageTooSmall
        told = f"a save needs {needed} free frames, {free} of {len(table)} are left"
        raise kind(volume.image.path, told)


@contextlib.contextmanager
def _recovery_hint_added(image: Image, options: MountOptions) -> Iterator[None]:
    """Add a hint to the error for a damaged image, if `recover` was asked for: what can be extracted."""
    try:
        yield
    except (ReservationFailed, DamagedTree) as exc:
        if not options.recover:
            raise
        from pramfs.offline.reader import recovery_hint  # noqa: PLC0415 - a mount that succeeds needs none

        hint = recovery_hint(image, options.source)
        raise PramError(f"{exc}; {hint}") from exc


@contextlib.contextmanager
def _many_objects() -> Iterator[None]:
    """Exempt the objects of a load, up to millions, from garbage collection for good.

    Of those that are made later, nearly all belong to files, too: they are looked at twice while they are
    young, and then hardly ever.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*_COLLECTIONS)
        gc.enable()


def _try_to_take(path: Path, options: MountOptions) -> tuple[Image, bool]:
    """Return the open image, and whether it is locked; if not, it is open to find out who has it."""
    try:
        create = not (options.ro or options.snapshot)
        image = open_image(path, writable=not options.ro, create=create)
    except ImageInUse:
        # Opening a device claims it. Find out whether another pramfs has claimed it.
        image = open_image(path, writable=False)
        if not image.try_lock(shared=True):
            return image, False
        image.close()
        image = open_image(path, writable=True)
    return image, image.try_lock(shared=options.ro)


def _check_snapshot(pram: Pram, options: MountOptions) -> None:
    """Raise NoSuchSnapshot unless the snapshot is there, TreeExists if the tree to grow from it is."""
    path = pram.image.path
    if not has_tree(pram, options.snapshot):
        raise no_such_snapshot(path, options.snapshot, tree_names(pram.nodes))
    if options.grows and has_tree(pram, options.name):
        raise TreeExists(path, options.name)


def _is_new(image: Image, options: MountOptions) -> bool:
    """Return whether the image is empty, or holds only zeros, and may become a pram image."""
    if options.ro or options.snapshot or options.pram is not None:
        return False
    if not image.size_bytes:
        return True
    try:
        superblock.require(image)
    except NotAnImage:
        return image.is_blank()
    return False


def _new_frames(image: Image, options: MountOptions) -> int:
    """Return the number of frames for a blank image: from size=, else all there are, else the default."""
    if options.size_bytes is None and image.frames:
        return image.frames
    return options.frames


def _cut_back(image: Image, size_bytes: int) -> None:
    if image.size_bytes > size_bytes:
        with contextlib.suppress(OSError):  # the reason why the mount fails is told already
            image.cut(size_bytes)


def _with_root(tree: Tree, options: MountOptions) -> Tree:
    tree.make_root(options.mode, Owner(options.uid, options.gid))
    return tree


def _loaded(tree: Tree, load: TreeLoad, options: MountOptions) -> Tree:
    recovered = Recovered() if options.recover else None
    load.into(tree, recovered)
    tree.changed = options.grows  # then there is no tree of its name in the image yet
    for path in recovered.left_out if recovered is not None else ():
        log.warning("left out, damaged: %s", path)
    if recovered is not None and recovered.more_lost:
        log.warning("birth times and reserved room are lost: %s", recovered.more_lost)
    return tree
