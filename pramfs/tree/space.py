"""What a tree and its next save take, counted as it changes: known at any time without a walk.

ENOSPC therefore comes to the writer, never to the save.
"""

from pramfs.pram.links import link_count
from pramfs.storage import layout
from pramfs.storage.arena import Arena
from pramfs.storage.layout import PAGE_SIZE


class Space:
    """The frames of one tree. Whoever changes the tree, or publishes it, keeps the counts."""

    def __init__(self, arena: Arena) -> None:
        self.pages = 0  # of data
        self.metadata_bytes = layout.TREE_HEADER.size  # of the records of all inodes with names
        self.relocations = 0  # pages that the next save has to move
        self.node_frames = 2  # for the node list of the next save
        self.node_moves = 0  # that the next save takes to move other nodes out of banned frames
        self.saved_frames = 0  # of the last save, besides data: the next one gives them back
        self._arena = arena

    def frames_to_keep_free(self, pages: int = 0, metadata_bytes: int = 0) -> int:
        """Frames that data and metadata may not take: a save needs them, and then the save after it.

        The next save gives the frames of the last one back. Where these are fewer than it takes, a
        full tree could be saved, and then not be mounted again for want of frames for one more save.
        With that many more `pages` and `metadata_bytes` than there are now.
        """
        metadata = -(-(self.metadata_bytes + metadata_bytes) // PAGE_SIZE)
        links = link_count(self.pages + pages) + link_count(metadata)
        lasting = metadata + links + self.node_frames
        moves = self.relocations + self.node_moves
        return moves + lasting + max(0, lasting - self.saved_frames)

    def require_metadata(self, more_bytes: int) -> None:
        """Raise OSError(ENOSPC) unless saves still fit with that much more metadata."""
        self._arena.require_free(self.frames_to_keep_free(metadata_bytes=more_bytes))
