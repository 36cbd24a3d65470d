"""Choose the arena of an image."""

from pramfs.storage.arena import Arena
from pramfs.storage.frames import FrameTable
from pramfs.storage.image import Image
from pramfs.storage.image_arena import ImageArena
from pramfs.storage.memory_arena import MemoryArena


def open_arena(kind: str, image: Image, table: FrameTable) -> Arena:
    """Return the arena for `arena=`: "image", "memory", or "auto" to choose by the kind of image."""
    if kind == "auto":
        kind = "image" if image.in_memory() else "memory"
    return ImageArena(image, table) if kind == "image" else MemoryArena(image, table)
