"""Pins: the frames of nodes stay as they are for a reader, also when the nodes are freed meanwhile.

A pin costs nothing as long as its nodes are there, since these hold their frames. What a node gives up
goes to its pin instead of being released. Then the pin is a holder that no save knows.
"""

from collections.abc import Callable, Iterable, Iterator

from pramfs.pram.nodes import Node
from pramfs.storage.arena import Arena
from pramfs.storage.extents import pfns_of
from pramfs.storage.frames import Extent


class Pin:
    """Pins nodes until it is released. `on_free` is called when one of them is freed."""

    def __init__(self, nodes: Iterable[Node], on_free: Callable[[], None]) -> None:
        self.nodes = list(nodes)
        self.on_free = on_free
        self.kept: list[Extent] = []  # what the nodes have given up


class Pins:
    """All pins of a Pram, and the way in which its nodes give frames up."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._by_node: dict[int, Pin] = {}  # by id(), which is that of a node while there is a pin

    def add(self, pin: Pin) -> None:
        """Put a pin in force. No node has two."""
        for node in pin.nodes:
            self._by_node[id(node)] = pin

    def release(self, pin: Pin) -> None:
        """End a pin, and release the frames that nobody else holds."""
        for node in pin.nodes:
            del self._by_node[id(node)]
        self._arena.release_extents(pin.kept)
        pin.kept = []

    def give_up(self, node: Node, extents: list[Extent]) -> None:
        """Release frames that a node held, or leave them to its pin."""
        pin = self._by_node.get(id(node))
        if pin is None:
            self._arena.release_extents(extents)
        else:
            pin.kept += extents

    def free(self, node: Node) -> None:
        """Give up all frames of a node that is freed."""
        self.give_up(node, node.owned)
        pin = self._by_node.get(id(node))
        if pin is not None:
            pin.on_free()

    def kept_pfns(self) -> Iterator[int]:
        """Yield the frames that pins hold, each as often as it is held."""
        for pin in {id(pin): pin for pin in self._by_node.values()}.values():
            yield from pfns_of(pin.kept)
