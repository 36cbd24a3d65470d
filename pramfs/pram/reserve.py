"""Reserve the frames of a save, all or nothing, before anything else can allocate them.

The rules are those of the 2013 file system (docs/history.md).
"""

from collections.abc import Iterator

from pramfs.errors import CorruptedPage, InvalidPfn, PramError, ReservationFailed
from pramfs.pram.links import Chain, ReadAhead, reserve_chain
from pramfs.pram.nodes import Node, NodeList, check_chain
from pramfs.storage import layout
from pramfs.storage.arena import Arena
from pramfs.storage.frames import Extent, FrameTable
from pramfs.storage.image import Image
from pramfs.storage.layout import PAGE_STREAM, SHARED, SuperBlock


def reserve(image: Image, table: FrameTable, current: SuperBlock) -> dict[str, Node]:
    """Reserve all frames of the save of `current`, or none, and return its nodes by name, as they are listed.

    Raises ReservationFailed with the cause: InvalidPfn, CorruptedPage or BusyPfn, checked in this order.
    """
    taken: list[Extent] = []
    try:
        require_slots(current, len(table))
        return {node.name: node for node in _reserve_nodes(image, table, current, taken)}
    except PramError as exc:
        table.unreserve(reversed(taken))
        raise ReservationFailed(exc) from exc


def require_slots(current: SuperBlock, frames: int) -> None:
    """Raise InvalidPfn or CorruptedPage unless both super blocks have slots of their own."""
    for slot in (current.pfn, current.other_pfn):
        if slot >= frames or not layout.is_slot(slot):
            raise InvalidPfn(slot, "super block")
    if current.pfn == current.other_pfn:
        raise CorruptedPage(current.pfn, "both super blocks in one frame")


def chain_of(arena: Arena, uuid: bytes, node: Node) -> Chain:
    """Return the chain of a node whose frames are reserved, reading it again if it was dropped."""
    if node.chain is not None:
        return node.chain
    scratch = FrameTable(len(arena.table))
    return reserve_chain(
        arena.read,
        uuid,
        scratch,
        node.link_pfn,
        lambda extent: None,
        shared=node.type == PAGE_STREAM,
    )


def may_share(current: SuperBlock, node: Node) -> bool:
    """Return whether data pages of `node` may be in frames that other entries name, too."""
    return bool(current.incompatible & SHARED) and node.type == PAGE_STREAM


def _reserve_nodes(
    image: Image, table: FrameTable, current: SuperBlock, taken: list[Extent]
) -> Iterator[Node]:
    links = ReadAhead(image)
    count = 0
    for node in NodeList(image, table, current, taken.append):
        own = len(taken)
        node.chain = reserve_chain(
            links.read,
            current.uuid,
            table,
            node.link_pfn,
            taken.append,
            shared=may_share(current, node),
        )
        check_chain(node, node.chain)
        node.owned = taken[own:]
        count += 1
        yield node
    if count != current.nodes:
        raise CorruptedPage(current.pfn, f"{count} nodes in the list, not {current.nodes}")
