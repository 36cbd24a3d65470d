"""A tree loaded from an image, ready to be served: open, lock, reserve, verify, load.

Nothing is mounted here, and nothing of the image is changed but its size. FUSE is not known here.
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

from pramfs.control import run_state
from pramfs.control.holder import holder_of, refuse_if_mounted
from pramfs.errors import (
    DamagedTree,
    ImageInUse,
    ImageTooSmall,
    NotAnImage,
    PramError,
    ReservationFailed,
    TooMuchBanned,
)
from pramfs.options import MountOptions
from pramfs.pram.pram import Pram
from pramfs.saves.load import Recovered, load_tree
from pramfs.saves.save import Saver
from pramfs.saves.tree_nodes import DATA_SUFFIX, drop_tree, has_tree
from pramfs.storage import superblock
from pramfs.storage.frames import BANNED, FREE
from pramfs.storage.image import Image, open_image
from pramfs.system.progress import Bar
from pramfs.tree.tree import Owner, Tree

log = logging.getLogger("pramfs")

_LOCK_POLL_S = 0.05
_TRIES_UNTOLD = 4  # most who have an image for a moment only look at it

Watch = Callable[[Bar], None]


@dataclass(slots=True)
class Volume:
    """An image with a tree of it loaded."""

    image: Image
    pram: Pram
    tree: Tree
    saver: Saver
    read_only: bool
    state_path: Path
    log_path: Path | None  # None when the log is no file


def load_volume(
    image_path: Path,
    options: MountOptions,
    *,
    open_log: Callable[[Path], Path | None],
    watch: Watch,
    overlapped_work: Callable[[], object],
) -> Volume:
    """Load the tree that the options name. Raises PramError, and then nothing has changed.

    `open_log` is told where the log of this image belongs as soon as that is known, and returns in which file
    it is. `watch` is shown the progress of the verification, which forks: no thread may run beside it.
    `overlapped_work` is something else that takes time and may fail; it is done while others verify.
    """
    image = _open_and_lock(image_path, options)
    try:
        with _recovery_hint_added(image, options):
            pram = _open_pram(image, options)
        log_path = open_log(run_state.log_path(image, pram.current.uuid))
        run_state.prune()
        for line in options.banned.table():
            log.info("%s", line)
        state_path = run_state.state_path(image, pram.current.uuid)
        _say_how_it_ended(image, pram, run_state.last_state(image, pram.current.uuid), options)
        with _recovery_hint_added(image, options), _many_objects():
            tree = _load_tree(pram, options, watch, overlapped_work)
        saver = Saver(pram, options.name, tree)
        if not options.ro:
            _require_room(pram, tree)
    except BaseException:
        image.unmake()
        image.close()
        raise
    return Volume(
        image=image,
        pram=pram,
        tree=tree,
        saver=saver,
        read_only=options.ro,
        state_path=state_path,
        log_path=log_path,
    )


@contextlib.contextmanager
def _recovery_hint_added(image: Image, options: MountOptions) -> Iterator[None]:
    """Let the refusal of a damaged image say, to one who asked to recover it, what is left of the tree."""
    try:
        yield
    except (ReservationFailed, DamagedTree) as exc:
        if not options.recover:
            raise
        from pramfs.offline.reader import recovery_hint  # noqa: PLC0415 - a mount that succeeds needs none

        raise PramError(f"{exc}; {recovery_hint(image, options.name)}") from exc


@contextlib.contextmanager
def _many_objects() -> Iterator[None]:
    """A load makes up to millions of objects that stay: the collector need not look at them, ever."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _open_and_lock(path: Path, options: MountOptions) -> Image:
    """Open the image and take it; wait while its last daemon saves. Raises ImageInUse when it is mounted.

    A mount that only reads shares it: a writer would give the frames that it shows to other files.

    What counts is whether the mount is there: a daemon learns of an unmount later than the caller of
    umount(2), and says that it serves only after it has loaded.
    """
    for tries in itertools.count():
        image, taken = _try_to_take(path, options)
        if taken:
            return image
        with image:
            refuse_if_mounted(image)
            if tries == _TRIES_UNTOLD:
                log.warning("%s: %s; waiting for it", path, holder_of(image).words)
        time.sleep(_LOCK_POLL_S)
    raise AssertionError


def _try_to_take(path: Path, options: MountOptions) -> tuple[Image, bool]:
    """The image, and whether it is taken; if not, it is open to look who has it."""
    try:
        image = open_image(path, writable=not options.ro, create=not options.ro)
    except ImageInUse:
        # A device is claimed by being opened. Is it one of us who did?
        image = open_image(path, writable=False)
        if not image.try_lock(shared=True):
            return image, False
        image.close()
        image = open_image(path, writable=True)
    return image, image.try_lock(shared=options.ro)


def _open_pram(image: Image, options: MountOptions) -> Pram:
    # With recover nothing of a damaged save may be overwritten before the next is published.
    arena = "memory" if options.recover else options.arena
    if _is_new(image, options):
        return Pram.create(image, _new_frames(image, options), banned=options.banned, arena=arena)
    return Pram.open(
        image,
        frames=options.frames if options.size_bytes is not None else 0,
        banned=options.banned,
        arena=arena,
        pfn=options.pram,
        accept_truncated=options.recover,
    )


def _say_how_it_ended(
    image: Image, pram: Pram, state: run_state.State | None, options: MountOptions
) -> None:
    """A mount that follows a run which did not save says so: the image is locked, that run is over."""
    if state is None or options.ro or not state.ended_badly:
        return
    saved = f"this is generation {pram.current.generation}"
    log.warning("%s: %s; %s", image.path, state.ended_badly, saved)


def _is_new(image: Image, options: MountOptions) -> bool:
    """Whether the image is empty, or zeros from end to end, and may become a pram image."""
    if options.ro or options.pram is not None:
        return False
    if not image.size_bytes:
        return True
    try:
        superblock.require(image)
    except NotAnImage:
        return image.is_blank()
    return False


def _new_frames(image: Image, options: MountOptions) -> int:
    """How many frames a blank image gets: what size= says, else all there are, else the default."""
    if options.size_bytes is None and image.frames:
        return image.frames
    return options.frames


def _load_tree(
    pram: Pram, options: MountOptions, watch: Watch, overlapped_work: Callable[[], object]
) -> Tree:
    tree = Tree(
        pram.arena,
        inodes_max=options.nr_inodes or len(pram.arena.table),
        generation=int.from_bytes(os.urandom(4), "little"),
    )
    if options.noload and not options.ro:
        drop_tree(pram, options.name)  # its frames come free with the first checkpoint
    if options.noload or not has_tree(pram, options.name):
        overlapped_work()
        tree.make_root(options.mode, Owner(options.uid, options.gid))
    else:
        recovered = Recovered() if options.recover else None
        lazy = options.verify == "lazy"
        pages = pram.node(options.name + DATA_SUFFIX).entries if not lazy else 0
        with Bar("verifying", pages) as bar:

            def progress(frames: int) -> None:
                bar(frames)
                watch(bar)

            watch(bar)
            load_tree(
                pram,
                options.name,
                tree,
                lazy=lazy,
                recover=recovered,
                progress=progress,
                overlapped_work=overlapped_work,
            )
        for path in recovered.left_out if recovered is not None else ():
            log.warning("left out, damaged: %s", path)
    return tree


def _require_room(pram: Pram, tree: Tree) -> None:
    """Raise ImageTooSmall or TooMuchBanned unless the tree can be saved, and then saved again."""
    table, needed = pram.arena.table, tree.space.frames_to_keep_free()
    if table.count(FREE) < needed:
        kind = TooMuchBanned if table.count(BANNED) else ImageTooSmall
        told = f"a save needs {needed} free frames, {table.count(FREE)} of {len(table)} are left"
        raise kind(pram.image.path, told)
