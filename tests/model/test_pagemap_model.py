"""The page map against a dict, with holes as wide as files may be."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pramfs.tree.pagemap import CHUNK_PAGES, PageMap
from tests.conftest import LONG

indices = st.one_of(
    st.integers(0, 12),
    st.integers(CHUNK_PAGES - 6, CHUNK_PAGES + 6),
    st.integers(3 * CHUNK_PAGES, 3 * CHUNK_PAGES + 9),
    st.just(1 << 50),
)


class PageMapMachine(RuleBasedStateMachine):
    """`model` maps the index of a page to its frame."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = PageMap()
        self.model: dict[int, int] = {}

    @rule(index=indices, pfn=st.integers(1, 1 << 31), count=st.integers(1, 9))
    def put(self, index: int, pfn: int, count: int) -> None:
        count = min(count, CHUNK_PAGES - index % CHUNK_PAGES)
        self.pages.put(index, pfn, count)
        self.model |= {index + at: pfn + at for at in range(count)}

    @rule(first=indices)
    def cut(self, first: int) -> None:
        gone = [pfn for index, pfn in sorted(self.model.items()) if index >= first]
        extents = self.pages.cut(first)
        assert [pfn for extent in extents for pfn in range(extent.pfn, sum(extent))] == gone
        self.model = {index: pfn for index, pfn in self.model.items() if index < first}

    @rule(first=indices, count=st.one_of(st.integers(0, 2 * CHUNK_PAGES), st.just(1 << 51)))
    def clear(self, first: int, count: int) -> None:
        inside = {index for index in self.model if first <= index < first + count}
        assert self.pages.count_in(first, count) == len(inside)
        extents = self.pages.clear(first, count)
        gone = [pfn for extent in extents for pfn in range(extent.pfn, sum(extent))]
        assert gone == [self.model.pop(index) for index in sorted(inside)]

    @rule(index=indices)
    def seek(self, index: int) -> None:
        data = min((page for page in self.model if page >= index), default=None)
        assert self.pages.next_page(index) == data
        hole = index
        while hole in self.model:
            hole += 1
        assert self.pages.next_hole(index) == hole

    @rule(index=indices, count=st.integers(1, 2 * CHUNK_PAGES))
    def look(self, index: int, count: int) -> None:
        found: dict[int, int] = {}
        at = index
        for extent in self.pages.file_extents(index, count):
            assert extent.page == at
            at += extent.pages
            if extent.pfn:
                found |= {extent.page + n: extent.pfn + n for n in range(extent.pages)}
        assert at == index + count
        assert found == {i: pfn for i, pfn in self.model.items() if index <= i < index + count}
        one_chunk = min(count, CHUNK_PAGES - index % CHUNK_PAGES)
        expected = [self.model.get(index + n, 0) for n in range(one_chunk)]
        assert self.pages.pfns(index, one_chunk).tolist() == expected

    @invariant()
    def pages_are_those_of_the_model(self) -> None:
        found = {
            start + at: pfn
            for start, pfns in self.pages.chunks()
            for at, pfn in enumerate(pfns)
            if pfn
        }
        assert found == self.model
        assert list(found) == sorted(found)
        assert self.pages.count == len(self.model)
        assert all(self.pages.get(index) == pfn for index, pfn in self.model.items())


def test_a_page_map_is_like_a_dict() -> None:
    run_state_machine_as_test(
        PageMapMachine,
        settings=settings(max_examples=2000 if LONG else 60, stateful_step_count=30),
    )
