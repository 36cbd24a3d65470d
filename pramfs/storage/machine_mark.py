"""Who may have an image on a device that several machines can reach: the rules, by the marks in it.

A lock keeps other processes of this machine from an image, and no other machine. So a mount for writing
leaves a mark of its machine in the image, and another machine is refused as long as it is there. That a
machine is dead cannot be told from here: the administrator does, with `pramfs takeover`. Files are never
marked. Their file system has locks, and a copy of the file is another image.
"""

import os
import time

from pramfs.errors import HeldByMachine, ImageOverwritten, TakenOver
from pramfs.storage import superblock
from pramfs.storage.image import Image
from pramfs.storage.layout import SuperBlock
from pramfs.storage.superblock import NOBODY, MachineMark
from pramfs.system.machine import UNKNOWN, this_machine
from pramfs.system.text import when

_HOST_BYTES_MAX = 64


def mark_of_this_machine() -> MachineMark:
    """Return the mark of a mount that this machine makes now; NOBODY if the machine has no id."""
    machine = this_machine()
    if machine.id == UNKNOWN:
        return NOBODY
    return MachineMark(machine.id, machine.boot, time.time_ns(), machine.host[:_HOST_BYTES_MAX])


def is_elsewhere(mark: MachineMark, here: MachineMark) -> bool:
    """Whether the mark is that of another machine, which may have the image mounted at present.

    Not if it is of this boot: then there are locks. Of an earlier boot of this machine nothing runs any more.
    Without an id on either side nothing is known, and nobody refused.
    """
    if UNKNOWN in {mark.machine, here.machine}:
        return False
    is_this_boot = mark.boot == here.boot and here.boot != UNKNOWN
    return not is_this_boot and mark.machine != here.machine


def held_elsewhere(image: Image, current: SuperBlock) -> MachineMark | None:
    """Return the mark of another machine that has the image mounted, as far as the image says, else None."""
    if not image.is_shared:
        return None
    mark = superblock.mounted_by(image, current)
    return mark if is_elsewhere(mark, mark_of_this_machine()) else None


def refuse_if_elsewhere(image: Image, current: SuperBlock) -> None:
    """Raise HeldByMachine if another machine has the image mounted, as far as the image says."""
    mark = held_elsewhere(image, current)
    if mark is not None:
        raise HeldByMachine(image.path, words_of_mark(mark), when(mark.since_ns))


def change_of(image: Image, current: SuperBlock, ours: MachineMark, pfn: int) -> ImageOverwritten:
    """Return who has changed a slot: another machine, if its mark is there, else some program."""
    mark = superblock.mark_at(image, current, pfn)
    if image.is_shared and mark.machine not in {UNKNOWN, ours.machine}:
        return TakenOver(image.path, words_of_mark(mark))
    return ImageOverwritten(image.path, "written to")


def words_of_mark(mark: MachineMark) -> str:
    """Return the name of a machine, for people: as its administrator calls it, and a part of its id."""
    return f"{os.fsdecode(mark.host) or 'a machine'} (machine {mark.machine.hex()[:8]})"
