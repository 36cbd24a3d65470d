"""Images whose snapshots lie: a command gives an answer or one clear line, and the tree still loads."""

import contextlib
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from pramfs.cli.main import main
from pramfs.errors import PramError
from pramfs.offline.diff import diff_trees
from pramfs.pram.pram import Pram
from pramfs.storage.layout import BYTE_STREAM, PAGE_SIZE, PAGE_STREAM
from tests.corruption.forgeries import forgeries
from tests.corruption.sample_image import sample_image
from tests.support.image_files import make_image
from tests.support.load_verdict import NAME, TreeState, deadline, load
from tests.support.snapshots import take_in
from tests.support.watched_image import image_of

SAMPLE = 700
SNAPSHOT = "before"


def test_a_clean_image_loads_and_differs_as_it_was_saved() -> None:
    whole = sample_image(SNAPSHOT)
    assert load(whole.content).tree == whole.tree
    snapshot = load(whole.content, name=f"{NAME}@{SNAPSHOT}").tree
    assert snapshot is not None
    assert _without_promises(snapshot) == _without_promises(whole.older)
    assert compare(whole.content) == ["removed fifo", "changed sub/file1"]


@pytest.mark.timeout(7200)
def test_a_hostile_hand_with_true_checksums(long: bool) -> None:
    """Anything may be in such an image, but nothing may come of it than an answer or a refusal."""
    whole = sample_image(SNAPSHOT)
    limit = 2 * _peak(whole.content) + (1 << 20)
    for number, (what, pages) in enumerate(forgeries(whole, random.Random(6))):
        if number == (60_000 if long else SAMPLE):
            return
        content = whole.with_pages(pages, sealed=True)
        try:
            load(content, save=True)
            load(content, name=f"{NAME}@{SNAPSHOT}")
            compare(content)
            if not number % 20:
                assert _peak(content) <= limit, "takes more memory than a clean comparison"
        except BaseException as exc:
            exc.add_note(what)
            raise


@pytest.mark.timeout(7200)
def test_what_is_damaged_makes_no_false_difference(long: bool) -> None:
    """Metadata is verified before anything is compared, and pages before their bytes count."""
    whole = sample_image(SNAPSHOT)
    rng = random.Random(7)
    clean = compare(whole.content)
    frames = (*whole.supers, *whole.metadata, *whole.stream, *whole.data)
    places = [(pfn, at) for pfn in frames for at in range(PAGE_SIZE)]
    for pfn, at in places if long else rng.sample(places, SAMPLE):
        page = bytearray(whole.page(pfn))
        page[at] ^= 1 << rng.randrange(8)
        told = compare(whole.with_pages({pfn: page}))
        assert told in (clean, None), f"byte {at} of pfn {pfn:x}"


def _without_promises(tree: TreeState) -> TreeState:
    """Room that was reserved for a file is not reserved for a snapshot of it."""
    return {path: (*fields[:13], *fields[14:]) for path, fields in tree.items()}


def compare(content: bytes | bytearray) -> list[str] | None:
    """The changes since the snapshot, None for a refusal. Any exception but a PramError is a bug."""
    with deadline(), contextlib.closing(image_of(bytes(content), writable=False)) as image:
        try:
            found = diff_trees(image, f"{NAME}@{SNAPSHOT}", NAME)
        except PramError:
            return None
        return [f"{change.change} {change.path}" for change in found.changes()]


def _peak(content: bytes | bytearray) -> int:
    """The most memory that a comparison takes, in bytes."""
    tracemalloc.start()
    compare(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


# --- nodes that are no snapshots ----------------------------------------------------------------


def drop(*nodes: str) -> Callable[[Pram], None]:
    def change(pram: Pram) -> None:
        for node in nodes:
            pram.free(f"{NAME}@{SNAPSHOT}{node}")

    return change


def stream(name: str, type_: int = BYTE_STREAM) -> Callable[[Pram], None]:
    """Put an empty node in place of one, or beside all others."""

    def change(pram: Pram) -> None:
        if name in pram.nodes:
            pram.free(name)
        with pram.prepare_save(name, type_):
            pass

    return change


LIES: dict[str, Callable[[Pram], None]] = {
    "no metadata": drop("-meta"),
    "no data": drop("-data"),
    "nothing but more": drop("-meta", "-data"),
    "metadata that is pages": stream(f"{NAME}@{SNAPSHOT}-meta", PAGE_STREAM),
    "data that is bytes": stream(f"{NAME}@{SNAPSHOT}-data"),
    "empty metadata": stream(f"{NAME}@{SNAPSHOT}-meta"),
    "more that is pages": stream(f"{NAME}@{SNAPSHOT}-more", PAGE_STREAM),
    "more that is empty": stream(f"{NAME}@{SNAPSHOT}-more"),
    **{
        f"the name {name!r}": stream(f"{name}-meta")
        for name in (
            f"{NAME}@", "@", f"@{SNAPSHOT}", f"{NAME}@..", f"{NAME}@.", f"{NAME}@a/b",
            f"{NAME}@a@b", f"{NAME}@\x1b[31m", f"{NAME}@a\nb", f"{NAME}@\udcff",
            f"{NAME}@{'n' * 200}", f"{NAME}@{SNAPSHOT}-meta",
        )
    },
}  # fmt: skip

READERS = [
    ("info",),
    ("check",),
    ("map",),
    ("nodes",),
    ("dump",),
    ("ls",),
    ("diff", SNAPSHOT),
    ("diff", f"{NAME}@"),
    ("snapshots",),
    ("snapshots", "--json"),
]
CHANGERS = [
    ("rollback", SNAPSHOT),
    ("rollback", f"{NAME}@"),
    ("free", f"{NAME}@{SNAPSHOT}"),
    ("free", f"{NAME}@"),
    ("free", NAME),
    ("free",),
]


@pytest.mark.parametrize("lie", LIES)
def test_nodes_that_are_no_snapshot(
    lie: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_image(tmp_path / "image")
    take_in(path, SNAPSHOT)
    with Pram.open(path) as pram:
        LIES[lie](pram)
        pram.publish()
    content = path.read_bytes()
    tree = load(content).tree
    assert tree is not None
    for command, *words in READERS + CHANGERS:
        path.write_bytes(content)
        code = main([command, str(path), *words])
        out, err = capsys.readouterr()
        assert len(err.splitlines()) == (code != 0 and command != "check"), (command, err)
        assert all(char.isprintable() or char == "\n" for char in out + err), command
        if command not in ("rollback", "free") or code or words == [f"{NAME}@{SNAPSHOT}"]:
            assert load(path.read_bytes()).tree == tree, command
