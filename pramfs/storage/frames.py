"""The state of every frame, and the allocator. What a frame holds is of no concern here.

The state of each frame is one byte, so that the C code of bytearray finds, counts and changes extents, and
publishing a save is one translate() of the table. The states:

    FREE      unused
    FRESH     in use, not in any save yet: may be written in place
    SAVED     in use, and in the last published save: never written
    HELD      no longer in use, but in the last published save: free once another one is published
    PENDING   in the save that is being written, where it was FRESH before: frozen
    DROPPED   PENDING, and released since
    OLD       not in the save that is being written: was HELD when that began
    BANNED    unused, and may hold nothing persistent
    SUPER     a slot: only a super block may lie there, see layout
    KEPT      unused, and kept with memory or disk space behind it: see Arena.keep

A page in memory may be written back to the image before a save (see write_back); the frame is then

    GOING            FRESH, and on its way to the image; FRESH again if it is written meanwhile
    WRITTEN          FRESH, but in the image instead of memory; FRESH again if it is written
    WRITTEN_PENDING  PENDING, and WRITTEN before
    WRITTEN_DROPPED  WRITTEN_PENDING, and released since

A frame may have several holders, such as a file and its clone (see holders). It is in use until the last one
releases it, and never written meanwhile.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pramfs.errors import BusyPfn, InvalidPfn, NoFrames
from pramfs.storage import layout
from pramfs.storage.holders import Holders
from pramfs.storage.regions import Regions

FREE, FRESH, SAVED, HELD, PENDING, DROPPED, OLD, BANNED, SUPER = range(9)
GOING, WRITTEN, WRITTEN_PENDING, WRITTEN_DROPPED, KEPT = range(9, 14)
STATE_NAMES = (
    *("free", "fresh", "saved", "held", "pending", "dropped", "old", "banned", "super"),
    *("going", "written", "written_pending", "written_dropped", "kept"),
)
# In memory only, with arena=memory; in use by the save that is being written, or by the next one.
UNWRITTEN = (FRESH, GOING, PENDING, DROPPED)
UNUSED = (FREE, KEPT)
FREE_IN_TIME = (*UNUSED, HELD, OLD, DROPPED, WRITTEN_DROPPED)  # at once, or after one or two saves
UNPUBLISHED = (*UNWRITTEN, WRITTEN, WRITTEN_PENDING, WRITTEN_DROPPED)

# Freeing an extent shorter than this does not move the start of the next search down to it.
_EXTENT_WORTH_A_RESCAN = 16


class Extent(NamedTuple):
    """`frames` consecutive frames from `pfn`."""

    pfn: int
    frames: int


@dataclass(frozen=True, slots=True)
class FrameCounts:
    """The numbers of frames that users see."""

    total: int
    used: int
    free: int
    banned: int
    reserved: int  # slots for super blocks, and frames that only a save still needs
    spared: int = 0  # that would be in use besides, if those with several holders were not shared


def _transition(**changes: int) -> bytes:
    """Return a translate() table that maps the named states to others."""
    table = bytearray(range(256))
    for name, state in changes.items():
        table[STATE_NAMES.index(name)] = state
    return bytes(table)


_BEGIN = _transition(fresh=PENDING, written=WRITTEN_PENDING, held=OLD)
_COMMIT = _transition(
    pending=SAVED, dropped=HELD, written_pending=SAVED, written_dropped=HELD, old=FREE
)
_ABORT = _transition(
    pending=FRESH, dropped=FREE, written_pending=WRITTEN, written_dropped=FREE, old=HELD
)
_LEAVE_OUT = _transition(free=BANNED)
_BAN = _transition(free=BANNED, kept=BANNED, super=BANNED)

# What becomes of a frame when its owner releases it.
_RELEASE = _transition(
    fresh=FREE,
    saved=HELD,
    pending=DROPPED,
    going=FREE,
    written=FREE,
    written_pending=WRITTEN_DROPPED,
)
_KEPT_EXTENT = re.compile(re.escape(bytes((KEPT,))) + b"+")
_OWNED = bytes((FRESH, SAVED, PENDING, GOING, WRITTEN, WRITTEN_PENDING))
_WRITABLE = bytes((FRESH, GOING, WRITTEN))


class FrameTable:
    """The states of all frames of an arena."""

    def __init__(self, frames: int) -> None:
        self.banned = Regions()
        self._states = bytearray(frames)
        self._counts = [0] * len(STATE_NAMES)
        self._counts[FREE] = frames
        self._single_hint = 0  # no free frame below it
        self._extent_hint = 0  # where the search for an extent starts
        self._extent_max = frames  # no free extent is longer, as far as is known
        self._kept_hint = 0  # no kept frame below it
        self._frozen_anew: list[Extent] | None = None  # see `begin_save`
        self._holders: Holders | None = None  # None until a frame is shared
        for base in layout.slot_bases(frames):
            self._states[base : base + 2] = bytes((SUPER,)) * len(self._states[base : base + 2])
        self._counts[SUPER] = self._states.count(SUPER)
        self._counts[FREE] -= self._counts[SUPER]

    def __len__(self) -> int:
        return len(self._states)

    def count(self, state: int) -> int:
        """Return the number of frames in `state`."""
        return self._counts[state]

    def count_all(self, states: Iterable[int]) -> int:
        """Return the number of frames in any of `states`."""
        return sum(self._counts[state] for state in states)

    @property
    def unused(self) -> int:
        """The number of UNUSED frames; asked at every allocation, as the next one, and so not a loop."""
        return self._counts[FREE] + self._counts[KEPT]

    @property
    def unwritten(self) -> int:
        """The number of UNWRITTEN frames."""
        count = self._counts
        return count[FRESH] + count[GOING] + count[PENDING] + count[DROPPED]

    def summary(self) -> FrameCounts:
        """Return the numbers of frames that users see."""
        count = self._counts
        return FrameCounts(
            total=len(self._states),
            used=sum(count[state] for state in _OWNED),
            free=self.unused,
            banned=count[BANNED],
            reserved=self.count_all((HELD, OLD, DROPPED, WRITTEN_DROPPED, SUPER)),
            spared=self.repeats,
        )

    def state(self, pfn: int) -> int:
        return self._states[pfn]

    def states(self, first: int, count: int) -> bytes:
        """Return the states of up to `count` frames from `first`, one byte each."""
        return bytes(self._states[first : first + count])

    def uniform(self, pfn: int, count: int) -> bool:
        """Return whether all `count` frames from `pfn` are in the same state."""
        states = self._states
        return states.count(states[pfn], pfn, pfn + count) == count

    def writable(self, pfn: int, count: int = 1) -> bool:
        """Return whether all `count` frames from `pfn` may be written in place."""
        states = self._states
        if self._holders is not None and self._holders.is_shared(pfn, count):
            return False
        if count == 1:
            return states[pfn] in _WRITABLE
        if states.count(FRESH, pfn, pfn + count) == count:
            return True
        return not states[pfn : pfn + count].translate(None, _WRITABLE)

    def writable_alike(self, pfn: int, count: int) -> int:
        """Return how many of `count` frames from `pfn` on are writable as that one is, or not as it."""
        if self.uniform(pfn, count):
            if self._holders is None or self._states[pfn] not in _WRITABLE:
                return count
            return self._holders.shared_alike(pfn, count)
        first = self.writable(pfn)
        return next(
            at for at in range(1, count + 1) if at == count or self.writable(pfn + at) != first
        )

    def extents(self, *states: int, first: int = 0, count: int | None = None) -> Iterator[Extent]:
        """Yield the extents in any of `states`, in order, among all or `count` frames from `first`."""
        if count is not None and self.uniform(first, count):
            if count and self._states[first] in states:
                yield Extent(first, count)
            return
        last = len(self._states) if count is None else first + count
        wanted = b"[" + re.escape(bytes(states)) + b"]"
        # Much faster than with "+": the search looks for a single byte first.
        pattern = wanted + wanted + b"*"
        for match in re.finditer(pattern, bytes(self._states[first:last])):
            yield Extent(first + match.start(), match.end() - match.start())

    # --- allocating and releasing ----------------------------------------------------------------

    def allocate(self, count: int) -> list[Extent]:
        """Allocate `count` free frames, in one extent if possible, else in long ones; they become FRESH.

        Their contents are undefined. Raises NoFrames, and allocates none, when there are too few.
        """
        if count > self._counts[FREE]:
            raise NoFrames(count, self._counts[FREE])
        if count == 1:
            return [Extent(self.allocate_one(), 1)]
        extents = []
        while count:
            extent = self._find_extent(count)
            extents.append(self._take(extent.pfn, extent.frames))
            count -= extent.frames
        return extents

    def allocate_one(self) -> int:
        """Allocate a free frame; it becomes FRESH. Raises NoFrames."""
        counts = self._counts
        if not counts[FREE]:
            raise NoFrames(1, 0)
        pfn = self._find_single()
        self._states[pfn] = FRESH
        counts[FREE] -= 1
        counts[FRESH] += 1
        return pfn

    def release_one(self, pfn: int) -> int | None:
        """Do the same as `release` for a single frame, faster: most files have one page.

        Returns the state that it was in, None if somebody still holds it.
        """
        state = self._states[pfn]
        if state not in _OWNED:
            raise AssertionError(f"pfn:{pfn:x}: released, and nobody owned it")
        if self._holders is not None and not self._holders.drop(pfn, 1):
            return None
        after = _RELEASE[state]
        self._states[pfn] = after
        self._counts[state] -= 1
        self._counts[after] += 1
        if after == FREE:
            self._lower_hints(pfn, 1)
        return state

    def release(self, pfn: int, count: int) -> list[Extent] | None:
        """Release frames that a tree or a node holds; return the extents that nobody holds any more.

        None stands for all of them: nearly always, so that it costs nothing to say. Those of a published save
        stay HELD for it.
        """
        before = self._states[pfn : pfn + count]
        if before.translate(None, _OWNED):
            raise AssertionError(f"pfn:{pfn:x}: {count} frames released that nobody owned")
        if self._holders is None:
            self._give_up(pfn, before)
            return None
        freed = [Extent(*extent) for extent in self._holders.drop(pfn, count)]
        for extent in freed:
            self._give_up(extent.pfn, self._states[extent.pfn : sum(extent)])
        return freed

    def _give_up(self, pfn: int, before: bytearray) -> None:
        """Change the states of frames that have lost their last holder."""
        self._replace(pfn, before, before.translate(_RELEASE))

    def reserve(self, pfn: int, count: int, what: str, *, shared: bool = False) -> None:
        """Reserve frames that a published save names; they become SAVED.

        With `shared`, they may have been reserved in this way before, and get one more holder then. Raises
        InvalidPfn for a frame outside the arena (or 0, which ends chains) and BusyPfn for one that is not
        free, and then reserves none. `what` names the use in the message.
        """
        if pfn == 0 or pfn + count > len(self._states):
            raise InvalidPfn(max(pfn, len(self._states)) if pfn else 0, what)
        states = self._states[pfn : pfn + count]
        if states.count(FREE) != count:
            taken = next((pfn + at for at, state in enumerate(states) if state != FREE), 0)
            if not shared or self._holders is None:
                raise BusyPfn(taken, what)
            self._reserve_shared(self._holders, pfn, states, what)
            return
        self._replace(pfn, states, bytes((SAVED,)) * count)
        if shared:
            self._require_holders().claim(pfn, count)

    def _reserve_shared(self, holders: Holders, pfn: int, states: bytearray, what: str) -> None:
        """Reserve frames of which some have been reserved before."""
        parts = [
            (Extent(pfn + match.start(), match.end() - match.start()), match[1] is not None)
            for match in re.finditer(b"(\\x00+)|[^\\x00]+", states)
        ]
        for extent, is_free in parts:
            if not is_free and not holders.may_be_shared(*extent):
                one = next(
                    n for n in range(extent.pfn, sum(extent)) if not holders.may_be_shared(n, 1)
                )
                raise BusyPfn(one, what)
        for extent, is_free in parts:
            if is_free:
                self._set(*extent, SAVED)
                holders.claim(*extent)
            else:
                holders.add(*extent)

    def unreserve(self, extents: Iterable[Extent]) -> None:
        """Undo `reserve`: frames without another holder become free again."""
        for extent in extents:
            for pfn, count in [extent] if self._holders is None else self._holders.drop(*extent):
                self._replace(pfn, self._states[pfn : pfn + count], bytes(count))

    # --- sharing ---------------------------------------------------------------------------------

    def share(self, pfn: int, count: int) -> None:
        """Give frames that somebody holds one more holder each."""
        if self._states[pfn : pfn + count].translate(None, _OWNED):
            raise AssertionError(f"pfn:{pfn:x}: {count} frames shared that nobody held")
        self._require_holders().add(pfn, count)

    def holders(self, pfn: int) -> int:
        """Return how many hold the frame, which is in use."""
        return 1 if self._holders is None else self._holders.count(pfn)

    def is_shared(self, pfn: int, count: int = 1) -> bool:
        """Return whether any of these frames has several holders."""
        return self._holders is not None and self._holders.is_shared(pfn, count)

    def held_alike(self, other: "FrameTable", pfn: int, count: int) -> int:
        """Return how many of these frames, which are in use in both tables, have as many holders in each."""
        if self._holders is None or other._holders is None:
            return count if self.repeats == other.repeats else 0
        return self._holders.count_alike(other._holders, pfn, count)

    def may_be_shared(self, pfn: int) -> bool:
        """Return whether the frame, which is in use, has been shared: so it is a data page that may be."""
        return self._holders is not None and self._holders.may_be_shared(pfn, 1)

    @property
    def repeats(self) -> int:
        """The number of holders besides the first of each frame: frames that sharing saves."""
        return 0 if self._holders is None else self._holders.repeats

    def _require_holders(self) -> Holders:
        if self._holders is None:
            self._holders = Holders(len(self._states))
        return self._holders

    def ban(self, banned: Regions) -> None:
        """Ban the free frames in these regions, and the others there once they are released."""
        self.banned = banned
        self._ban_free()

    def leave_out(self, extent: Extent) -> None:
        """Let those of these frames that are free be allocated no more; those in use stay as they are."""
        pfn, frames = extent
        states = self._states[pfn : pfn + frames]
        self._replace(pfn, states, states.translate(_LEAVE_OUT))

    # --- frames kept for promises ----------------------------------------------------------------

    def keep(self, count: int, within: Extent | None = None) -> list[Extent]:
        """Keep `count` FREE frames, or fewer if there are no more; return their extents."""
        if within is None:
            extents = self.allocate(min(count, self._counts[FREE]))
        else:
            extents = list(self.extents(FREE, first=within.pfn, count=within.frames))
        kept = []
        for pfn, found in extents:
            frames = min(found, count)
            if not frames:
                break
            count -= frames
            self._set(pfn, frames, KEPT)
            self._kept_hint = min(self._kept_hint, pfn)
            kept.append(Extent(pfn, frames))
        return kept

    def take_kept(self, count: int) -> list[Extent]:
        """Make `count` KEPT frames FRESH, for which there must be so many; return their extents."""
        return self._change_kept(count, FRESH)

    def give_up_kept(self, count: int) -> list[Extent]:
        """Make `count` KEPT frames FREE, for which there must be so many; return their extents."""
        return self._change_kept(count, FREE)

    def give_up(self, extent: Extent) -> None:
        """Make these KEPT frames FREE."""
        pfn, frames = extent
        self._replace(pfn, self._states[pfn : pfn + frames], bytes(frames))

    def _change_kept(self, count: int, state: int) -> list[Extent]:
        extents = []
        while count:
            pfn = self._states.find(KEPT, self._kept_hint)
            found = _KEPT_EXTENT.match(self._states, pfn, pfn + count)
            assert found is not None
            frames = found.end() - pfn
            self._replace(pfn, found[0], bytes((state,)) * frames)
            self._kept_hint = pfn + frames
            extents.append(Extent(pfn, frames))
            count -= frames
        return extents

    # --- write-back ------------------------------------------------------------------------------

    def begin_write_back(self, count: int, first: int) -> list[Extent]:
        """Make up to `count` FRESH frames GOING, the first from `first` on; return their extents.

        Begins again at frame 0 when there are too few behind `first`.
        """
        extents: list[Extent] = []
        for start, end in ((first, len(self._states)), (0, first)):
            for extent in self.extents(FRESH, first=start, count=end - start):
                frames = min(extent.frames, count)
                if not frames:
                    return extents
                extents.append(Extent(extent.pfn, frames))
                self._set(extent.pfn, frames, GOING)
                count -= frames
        return extents

    def end_write_back(self, extent: Extent, *, written: bool) -> list[Extent]:
        """Make what is still GOING of an extent WRITTEN, or FRESH again; return that part of it."""
        going = list(self.extents(GOING, first=extent.pfn, count=extent.frames))
        for pfn, count in going:
            self._set(pfn, count, WRITTEN if written else FRESH)
        return going

    def renew(self, pfn: int, count: int, state: int) -> None:
        """Make those of these frames that are in `state`, GOING or WRITTEN, FRESH: they are written."""
        for extent in list(self.extents(state, first=pfn, count=count)):
            self._set(extent.pfn, extent.frames, FRESH)

    # --- saves -----------------------------------------------------------------------------------

    def begin_save(self) -> None:
        """Freeze all frames in use: the save that begins holds them. Not during a write-back.

        If a save that is in doubt holds some already, an abort leaves those as they are.
        """
        if self._counts[GOING]:
            raise AssertionError("a save begins before a write-back has ended")
        in_doubt = self.count_all((PENDING, DROPPED, WRITTEN_PENDING, WRITTEN_DROPPED, OLD))
        self._frozen_anew = list(self.extents(FRESH, WRITTEN, HELD)) if in_doubt else None
        self._translate(_BEGIN)

    def commit_save(self) -> list[Extent]:
        """Note that the save is published; free and return the extents that only the previous one held."""
        freed = list(self.extents(OLD))
        self._translate(_COMMIT)
        self._ban_free()
        return freed

    def abort_save(self) -> None:
        """Note that the save failed: the previous one stands."""
        if self._frozen_anew is None:
            self._translate(_ABORT)
        for pfn, count in self._frozen_anew or ():
            states = self._states[pfn : pfn + count]
            self._replace(pfn, states, states.translate(_ABORT))
        self._frozen_anew = None
        self._ban_free()

    # --- helpers ---------------------------------------------------------------------------------

    def _find_single(self) -> int:
        pfn = self._states.find(FREE, self._single_hint)
        self._single_hint = pfn + 1
        return pfn

    def _find_extent(self, count: int) -> Extent:
        """Return a free extent of `count` frames, or one at least half as long as the longest there is."""
        # A search that finds nothing goes through the whole table: never repeat one in vain.
        while (wanted := count if count <= self._extent_max else self._extent_max // 2 + 1) > 1:
            pfn = self._states.find(bytes(wanted), self._extent_hint)
            if pfn < 0 and self._extent_hint:
                pfn = self._states.find(bytes(wanted), 0, self._extent_hint + wanted - 1)
            if pfn >= 0:
                self._extent_hint = pfn + wanted
                return Extent(pfn, wanted)
            self._extent_max = wanted - 1
        return Extent(self._find_single(), 1)

    def _take(self, pfn: int, count: int) -> Extent:
        self._states[pfn : pfn + count] = bytes((FRESH,)) * count
        self._counts[FREE] -= count
        self._counts[FRESH] += count
        return Extent(pfn, count)

    def _set(self, pfn: int, count: int, state: int) -> None:
        """Change the state of frames in use that are all in the same one."""
        self._counts[self._states[pfn]] -= count
        self._counts[state] += count
        self._states[pfn : pfn + count] = bytes((state,)) * count

    def _replace(self, pfn: int, before: bytes | bytearray, after: bytes | bytearray) -> None:
        """Change the states from `pfn` on, and keep counts, hints and bans up to date."""
        if before == after:
            return
        self._states[pfn : pfn + len(after)] = after
        for state in range(len(STATE_NAMES)):
            self._counts[state] += after.count(state) - before.count(state)
        if FREE in after:
            self._lower_hints(pfn, len(after))

    def _lower_hints(self, pfn: int, count: int) -> None:
        if self.banned and self.banned.overlaps(pfn, count):
            self._ban_free()
        self._single_hint = min(self._single_hint, pfn)
        states, behind = self._states, pfn + count
        if self._extent_max < len(states):
            # The freed extent joins at most the free ones on either side of it.
            beside = states[pfn - 1] == FREE if pfn else 0
            beside += states[behind] == FREE if behind < len(states) else 0
            joined = count + beside * self._extent_max
            self._extent_max = min(max(self._extent_max, joined), len(states))
        if count >= _EXTENT_WORTH_A_RESCAN:
            self._extent_hint = min(self._extent_hint, pfn)

    def _translate(self, table: bytes) -> None:
        self._states[:] = self._states.translate(table)
        # Not by counting the states: that takes longer than all else of a small save.
        before, self._counts = self._counts, [0] * len(STATE_NAMES)
        for state, frames in enumerate(before):
            self._counts[table[state]] += frames
        self._single_hint = self._extent_hint = 0
        self._extent_max = len(self._states)

    def _ban_free(self) -> None:
        for first, last in self.banned.clipped(len(self._states)):
            states = self._states[first : last + 1]
            self._replace(first, states, states.translate(_BAN))
