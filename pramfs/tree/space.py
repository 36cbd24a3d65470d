"""The frames that a tree and its next save need, counted as the tree changes, so that no walk is needed.

ENOSPC therefore fails the writer, never the save: `Arena.require_free` raises it unless these stay free.
"""

from pramfs.pram.links import link_count
from pramfs.storage import layout
from pramfs.storage.arena import Arena
from pramfs.storage.layout import LINK_ENTRIES_MAX, PAGE_SIZE

# Pages that were promised room and have frames are changed by copying them: so many frames are kept for
# that, and as many pages can be changed before a checkpoint has to give the old frames back.
SPARE_MAX = 128
_SNAPSHOT_NODES = 3


class Space:
    """The counts of one tree. Code that changes or publishes the tree updates them."""

    def __init__(self, arena: Arena) -> None:
        self.pages = 0  # of data
        self.metadata_bytes = layout.TREE_HEADER.size  # of the records of all inodes with names
        self.relocations = 0  # pages that the next save has to move
        self.node_frames = 3  # for the node list of the next save
        # For other nodes: those that move out of banned frames, and all pages of the list that stay as they
        # are in the next save, but not in one after a snapshot was freed.
        self.other_nodes = 0
        self.saved_frames = 0  # of the last save, besides data: the next one gives them back
        self.promised = 0  # pages that fallocate(2) has promised room to
        self.promised_ranges = 0  # that these form
        self.claimed = 0  # those of them that have no frame yet
        # What the snapshot under way ends: it keeps its room until that is sure, or it is promised again.
        self.ending = 0
        self.ending_ranges = 0
        self._arena = arena
        self._metadata = -1  # frames of it, for which `_with_metadata` is known
        self._with_metadata = 0

    @property
    def spare(self) -> int:
        """The frames kept for changes of pages that were promised room and have frames."""
        return min(self.promised + self.ending, SPARE_MAX)

    def spare_for(self, more: int) -> int:
        """Return how many more spare frames that many more promised pages need."""
        return min(self.promised + self.ending + more, SPARE_MAX) - self.spare

    def frames_to_keep_free(self, pages: int = 0, metadata_bytes: int = 0, ranges: int = 0) -> int:
        """Return the number of frames that must stay free: for promises, and for the next two saves.

        `pages`, `metadata_bytes` and `ranges` of promised pages are what is about to be added. The next
        save frees the frames of the last one. If these were fewer than it takes, a full tree could be
        saved, but then not be mounted again, because a mount needs the frames for one more save.
        """
        metadata = -(-(self.metadata_bytes + metadata_bytes) // PAGE_SIZE)
        if metadata != self._metadata:
            self._metadata = metadata
            self._with_metadata = _frames_with(metadata)
        lasting = self._with_metadata + self.node_frames
        lasting += -(-(self.pages + self.claimed + pages) // LINK_ENTRIES_MAX)
        kept = self.relocations + self.other_nodes
        if self.promised or self.ending or ranges:
            kept += self.claimed + self.spare
            ranges += self.promised_ranges + self.ending_ranges
            lasting += -(-ranges * layout.RESERVED.size // PAGE_SIZE) + 1
        if lasting > self.saved_frames:
            kept += lasting - self.saved_frames
        return kept + lasting

    def snapshot_frames(self) -> int:
        """Return how many frames a snapshot of the tree takes, and the nodes of it from then on."""
        metadata = -(-self.metadata_bytes // PAGE_SIZE)
        return _frames_with(metadata) + link_count(self.pages) + 2 * _SNAPSHOT_NODES

    def require_metadata(self, more_bytes: int) -> None:
        """Raise OSError(ENOSPC) unless saves still fit after adding that much metadata."""
        self._arena.require_free(self.frames_to_keep_free(metadata_bytes=more_bytes))


def _frames_with(metadata: int) -> int:
    """Return the frames for that much metadata, for births, and for the links of both."""
    # Of births there is at most one for each inode, that is for each record.
    births = metadata * layout.BIRTH.size // layout.INODE.size + 1
    return metadata + births + link_count(metadata) + link_count(births)
