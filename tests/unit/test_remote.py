"""Streams in places: what arrives is what was sent, and what was interrupted is no stream."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pramfs.cli.main import main
from pramfs.errors import (
    EXIT_FAILED,
    EXIT_USAGE,
    DamagedInPlace,
    NoBaseInPlace,
    NotAPlace,
    NotDropped,
    PlaceFailed,
    PramError,
)
from pramfs.pram.pram import Pram
from pramfs.remote import place as places
from pramfs.remote.download import PieceReader
from pramfs.remote.keep import drop_old, to_drop
from pramfs.remote.listing import Listing, find_stream, list_streams
from pramfs.remote.local import LocalStore
from pramfs.remote.manifest import Manifest, decode, encode, manifest_name, piece_name, place_of
from pramfs.remote.place import Place, open_place, split_place
from pramfs.remote.store import Store
from pramfs.remote.upload import discard, upload
from pramfs.saves.load import load_tree
from pramfs.saves.save import Saver
from pramfs.storage.image import open_image
from pramfs.stream.identity import read_tree
from pramfs.stream.source import source_at
from tests.support.image_files import make_image
from tests.support.places import faulty_place, local_files_store, memory_files, memory_store
from tests.support.snapshots import take, take_in
from tests.support.tree_volume import NAME, Volume, new_tree

PIECE = 64 << 10


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = make_image(tmp_path / "image")
    take_in(path, "one")
    return path


@pytest.fixture(params=["directory", "fsspec memory", "fsspec local"])
def store_at(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Store]:
    """Return the store of a path, of one of the kinds."""
    if request.param == "directory":
        return lambda path: LocalStore(tmp_path / path)
    if request.param == "fsspec memory":
        files = memory_files()
        return lambda path: memory_store(files, f"/{path}")
    return lambda path: local_files_store(str(tmp_path / path))


@pytest.fixture
def store(store_at: Callable[[str], Store]) -> Store:
    return store_at("streams")


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_WAITS_S", (0.001,) * 4)


def change(image: Path, snapshot: str) -> None:
    """Write a file of that name in an image, and take a snapshot of that name."""
    volume = Volume(pram=Pram.open(image))
    volume.tree = new_tree(volume.pram)
    load_tree(volume.pram, NAME, volume.tree)
    volume.saver = Saver(volume.pram, NAME, volume.tree)
    volume.create(snapshot, snapshot.encode())
    take(volume, snapshot)
    volume.pram.close()


def run(*words: object) -> int:
    return main(list(map(str, words)))


def identity(image: Path, name: str) -> bytes:
    with open_image(image, writable=False) as opened:
        return read_tree(opened, name).identity


def send(place: Place, image: Path, snapshot: str = "one", since: str | None = None) -> Manifest:
    with source_at(Path(f"{image}@{snapshot}"), since) as sending:
        base = list_streams(place).whole_of_identity(sending.header.base_identity.hex())
        return upload(place, sending, base, piece_bytes=PIECE)


def contents(place: Place, stream: Manifest) -> bytes:
    with PieceReader(place, stream) as reader:
        return reader.readall() or b""


def piped(image: Path) -> int:
    """How many bytes `pramfs send` writes."""
    size = 0

    def count(parts: object) -> int:
        nonlocal size
        taken = sum(map(len, parts))  # type: ignore[call-overload]
        size += taken
        return int(taken)

    with source_at(Path(f"{image}@one")) as sending:
        sending.to(count)
    return size


def test_a_stream_comes_back_in_pieces(store: Store, image: Path) -> None:
    place = Place("place", store)
    sent = send(place, image)
    assert len(sent.pieces) > 4
    assert len(contents(place, sent)) == sent.size == piped(image)
    assert list_streams(place).streams == (sent,)
    assert {entry.name for entry in store.entries(sent.id)} == {
        piece_name(sent.id, number).partition("/")[2] for number in range(len(sent.pieces))
    }


def test_a_file_is_no_place(store_at: Callable[[str], Store]) -> None:
    store_at("streams").put("file", b"a stream, perhaps")
    with pytest.raises(NotAPlace, match="s3://b/file: a file, not a directory with streams; a str"):
        list_streams(Place("s3://b/file", store_at("streams/file")))
    assert store_at("streams/missing").entries() == []


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("s3://b/p/20261129T120516Z-9718a104.json", "s3://b/p"),
        ("s3://b/p/20261129T120516Z-9718a104/", "s3://b/p"),
        ("s3://b/p/20261129T120516Z-9718a104/00000003", "s3://b/p"),
        ("20261129T120516Z-9718a104", "."),
        ("/20261129T120516Z-9718a104.json", "/"),
        ("/p/20261129T120516Z-9718a104.txt", None),
        ("/p/00000003", None),
        ("p", None),
    ],
)
def test_the_place_of_a_part_is_found(path: str, place: str | None) -> None:
    assert place_of(path) == place


def test_an_interrupted_upload_leaves_nothing(store: Store, image: Path) -> None:
    def fail(method: str, name: str) -> None:
        if method == "put" and name.endswith("3"):
            raise PermissionError("denied")

    place, _ = faulty_place(store, fail)
    with pytest.raises(PlaceFailed, match=r"cannot write .*/00000003 there: denied"):
        send(place, image)
    assert store.entries() == []


def test_an_upload_that_cannot_clean_up_leaves_nothing_that_looks_whole(
    store: Store, image: Path
) -> None:
    is_down = False

    def fail(method: str, name: str) -> None:
        nonlocal is_down
        is_down |= name.endswith("4")
        if is_down:
            raise ConnectionResetError("reset by peer")

    place, _ = faulty_place(store, fail)
    with pytest.raises(PlaceFailed, match="reset by peer"):
        send(place, image)
    assert store.entries()
    assert list_streams(Place("place", store)).streams == ()


def test_a_manifest_whose_writing_failed_goes_first(store: Store, image: Path) -> None:
    """It may be there all the same: no piece may go before it."""
    removed = []

    def fail(method: str, name: str) -> None:
        if method == "put" and name.endswith(".json"):
            raise PermissionError("denied")
        if method == "remove":
            removed.append(name)

    place, _ = faulty_place(store, fail)
    with pytest.raises(PlaceFailed):
        send(place, image)
    assert removed[0].endswith(".json")
    assert len(removed) > 4


def test_pieces_stay_if_their_manifest_cannot_be_removed(store: Store, image: Path) -> None:
    def fail(method: str, name: str) -> None:
        if method == "remove" and name.endswith(".json"):
            raise PermissionError("denied")

    place, _ = faulty_place(store, fail)
    *_, last = (send(place, image) for _ in range(3))
    with pytest.raises(NotDropped, match="sent, but what is old may still be there: cannot remove"):
        drop_old(place, last, 1, 0)
    for stream in list_streams(place).streams:
        assert len(contents(place, stream)) == stream.size


def test_lost_connections_are_made_anew(store: Store, image: Path) -> None:
    failed: set[tuple[str, str]] = set()

    def fail_once(method: str, name: str) -> None:
        if (method, name) not in failed:
            failed.add((method, name))
            raise ConnectionResetError("reset by peer")

    place, faulty = faulty_place(store, fail_once)
    sent = send(place, image)
    assert len(contents(place, sent)) == sent.size
    assert faulty.renewals > 1


def test_what_will_not_pass_is_not_tried_again(tmp_path: Path) -> None:
    calls = []

    def deny(method: str, name: str) -> None:
        calls.append(method)
        raise PermissionError("denied")

    place, _ = faulty_place(LocalStore(tmp_path), deny)
    with pytest.raises(PlaceFailed):
        place.get("x")
    assert calls == ["get"]


def change_piece(store: Store, stream: Manifest, change: Callable[[bytes], bytes]) -> None:
    name = piece_name(stream.id, 2)
    store.put(name, change(store.get(name)))


@pytest.mark.parametrize(
    "change",
    [
        lambda piece: piece[:-1],
        lambda piece: b"",
        lambda piece: piece + b"\0",
        lambda piece: bytes([piece[0] ^ 1]) + piece[1:],
    ],
    ids=["cut off", "empty", "longer", "flipped"],
)
def test_a_damaged_piece_is_refused(
    tmp_path: Path, image: Path, change: Callable[[bytes], bytes]
) -> None:
    place = Place("place", LocalStore(tmp_path / "streams"))
    sent = send(place, image)
    change_piece(LocalStore(tmp_path / "streams"), sent, change)
    new = tmp_path / "new"
    assert run("receive", "--from", tmp_path / "streams", new) == EXIT_FAILED
    assert not new.exists()


def test_a_piece_that_came_damaged_is_fetched_again(tmp_path: Path, image: Path) -> None:
    store = LocalStore(tmp_path / "streams")
    sent = send(Place("place", store), image)
    name = piece_name(sent.id, 2)
    right = store.get(name)
    store.put(name, right[:-1])
    asked = []

    def repair(method: str, asked_for: str) -> None:
        if asked_for == name:
            asked.append(method)
            if len(asked) == 2:
                store.put(name, right)

    place, _ = faulty_place(store, repair)
    assert len(contents(place, sent)) == sent.size
    assert asked == ["get", "get"]


def test_a_stream_that_is_dropped_while_it_is_received(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender with --keep removes the manifest, then the pieces, one after the other."""
    store = LocalStore(tmp_path / "s")
    first = send(Place("place", store), image)
    get = LocalStore.get

    def get_while_it_goes(self: LocalStore, name: str) -> bytes:
        if name == piece_name(first.id, 2):
            discard(Place("place", store), first.id, len(first.pieces))
        return get(self, name)

    monkeypatch.setattr(LocalStore, "get", get_while_it_goes)
    new = tmp_path / "new"
    assert run("receive", "--from", tmp_path / "s", new) == EXIT_FAILED
    assert capsys.readouterr().err == (
        f"pramfs: {tmp_path}/s: pramfs@one, {first.id}, was dropped there meanwhile;"
        " nothing was taken of it: receive again\n"
    )
    assert not new.exists()


def test_a_missing_piece_is_told(
    tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = send(Place("place", LocalStore(tmp_path / "s")), image)
    (tmp_path / "s" / piece_name(sent.id, 1)).unlink()
    assert run("receive", "--from", tmp_path / "s", tmp_path / "new") == EXIT_FAILED
    assert capsys.readouterr().err == (
        f"pramfs: {tmp_path}/s: damaged there: {sent.id}/00000001: it is missing;"
        " nothing was taken of it\n"
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-5],
        lambda data: data.replace(b'"pages": ', b'"pages": 1'),
        lambda data: data.replace(b'"pages"', b'"sides"'),
        lambda data: data.replace(b'"version": 1', b'"version": 2'),
        lambda data: b"[" * 100000,
        lambda data: b"{}",
        lambda data: b"",
    ],
    ids=["cut off", "changed", "other field", "newer", "deep", "no fields", "empty"],
)
def test_a_damaged_manifest_is_told_and_hides_no_other(
    tmp_path: Path,
    image: Path,
    damage: Callable[[bytes], bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = LocalStore(tmp_path / "s")
    first, second = (send(Place("place", store), image) for _ in range(2))
    store.put(manifest_name(first.id), damage(store.get(manifest_name(first.id))))
    assert run("snapshots", tmp_path / "s") == EXIT_FAILED
    told = capsys.readouterr()
    assert second.id in told.out
    assert f"damaged there: {first.id}.json" in told.err
    with pytest.raises(NotDropped):
        drop_old(Place("place", store), second, 1, 0)
    assert find_stream(Place("place", store), "")[0] == second
    with pytest.raises(DamagedInPlace):
        find_stream(Place("place", store), first.id)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "20261129T120516Z-9718a105"},
        {"pieces": ("../../x",)},
        {"pieces": ()},
        {"pages": -1},
        {"pages": True},
        {"size": 1 << 70},
        {"piece_bytes": 1 << 40},
        {"base": "../x"},
        {"name": "n" * 300},
        {"identity": "00"},
    ],
    ids=repr,
)
def test_a_manifest_that_no_sender_writes_is_refused(
    tmp_path: Path, image: Path, change: dict[str, object]
) -> None:
    sent = send(Place("place", LocalStore(tmp_path / "s")), image)
    fields = {name: getattr(sent, name) for name in Manifest.__annotations__}
    with pytest.raises(ValueError, match="it "):
        decode(encode(Manifest(**(fields | change))), sent.id)


# --- the commands -----------------------------------------------------------------------------------


@pytest.fixture
def chain(image: Path, tmp_path: Path) -> Path:
    """A place with a complete stream and two increments."""
    place = tmp_path / "place"
    assert run("send", f"{image}@one", "--to", place) == 0
    for snapshot, since in (("two", "one"), ("three", "two")):
        change(image, snapshot)
        assert run("send", f"{image}@{snapshot}", "--to", place, "--since", since) == 0
    return place


def names_in(image: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert run("snapshots", image) == 0
    return [line.split()[0] for line in capsys.readouterr().out.splitlines()]


def test_a_chain_is_received_in_order(
    chain: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    assert run("receive", "--from", chain, "--size", "8m", "--as", "@last", new) == 0
    assert identity(new, "pramfs@last") == identity(image, "pramfs@three")
    assert sorted(names_in(new, capsys)) == ["pramfs@last", "pramfs@one", "pramfs@two"]


def test_a_compressed_stream_is_received(image: Path, tmp_path: Path) -> None:
    place, new = tmp_path / "place", tmp_path / "new"
    assert run("send", f"{image}@one", "--to", place, "--compress", "zstd") == 0
    (sent,) = list_streams(open_place(str(place))).streams
    assert sent.compressed
    assert sent.size < piped(image)
    assert run("receive", "--from", place, "--size", "8m", new) == 0
    assert identity(new, "pramfs@one") == identity(image, "pramfs@one")


def test_a_directory_is_no_receiver(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    for receiver in (tmp_path, tmp_path / "image" / "below"):
        assert run("receive", "--from", chain, receiver) == EXIT_FAILED
        assert capsys.readouterr().err.startswith(f"pramfs: {receiver}: ")


def test_only_what_the_receiver_lacks_is_received(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    assert run("receive", "--from", f"{chain}@one", "--size", "8m", "--as", "@mine", new) == 0
    capsys.readouterr()
    assert run("receive", "--from", f"{chain}@three", new) == 0
    told = [line.split(",")[0].rpartition(" ")[2] for line in capsys.readouterr().err.splitlines()]
    assert told == ["pramfs@two", "pramfs@three"]


def test_a_base_whose_name_is_taken_gets_another(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = make_image(tmp_path / "new", frames=2048)
    change(new, "one")
    with open_image(new, writable=False) as opened:
        before = read_tree(opened, "pramfs@one").identity
    assert run("receive", "--from", f"{chain}@two", new) == 0
    assert identity(new, "pramfs@one") == before
    first = list_streams(open_place(str(chain))).streams[0]
    assert set(names_in(new, capsys)) >= {f"pramfs@{first.id}", "pramfs@two"}


def test_a_name_that_is_taken_is_told_before_anything_is_received(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = make_image(tmp_path / "new", frames=2048)
    assert run("receive", "--from", chain, "--as", "pramfs", new) == EXIT_FAILED
    assert "there is a tree 'pramfs' already" in capsys.readouterr().err
    assert names_in(new, capsys) == []


def test_a_base_that_is_nowhere_is_told(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = list_streams(open_place(str(chain))).streams[0]
    (chain / manifest_name(first.id)).unlink()
    new = tmp_path / "new"
    assert run("receive", "--from", chain, new) == EXIT_FAILED
    assert capsys.readouterr().err.endswith(
        f"pramfs: {chain}: 'pramfs@two' builds on the sender's 'pramfs@one',"
        f" which is neither there nor in {new}: send all of it\n"
    )
    assert not new.exists()


def test_an_increment_needs_its_base_in_the_place(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(image, "two")
    place = tmp_path / "place"
    words = ("send", f"{image}@two", "--to", place)
    assert run(*words, "--since", "one") == EXIT_FAILED
    assert "no stream there has what 'pramfs@one' is" in capsys.readouterr().err
    assert not place.exists()
    assert run("send", f"{image}@one", "--to", place) == 0
    assert run(*words, "--since", "one") == 0


def test_incremental_takes_the_newest_that_both_have(chain: Path, image: Path) -> None:
    change(image, "four")
    assert run("free", image, "pramfs@three") == 0
    assert run("send", f"{image}@four", "--to", chain, "--incremental") == 0
    *_, newest = list_streams(open_place(str(chain))).streams
    assert (newest.name, newest.base_name) == ("pramfs@four", "pramfs@two")


def test_incremental_sends_all_if_there_is_nothing_to_build_on(image: Path, tmp_path: Path) -> None:
    assert run("send", f"{image}@one", "--to", tmp_path / "p", "--incremental") == 0
    (only,) = list_streams(open_place(str(tmp_path / "p"))).streams
    assert not only.base


def test_what_is_there_is_not_sent_again(chain: Path, image: Path) -> None:
    before = sorted(chain.iterdir())
    assert run("send", f"{image}@three", "--to", chain, "--incremental") == 0
    assert sorted(chain.iterdir()) == before
    # But an increment may be wanted as a whole.
    assert run("send", f"{image}@three", "--to", chain) == 0
    assert not list_streams(open_place(str(chain))).streams[-1].base


@pytest.mark.parametrize("lost", ["manifest", "pieces"])
def test_nothing_builds_on_what_cannot_be_received(
    chain: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: str
) -> None:
    first = list_streams(open_place(str(chain))).streams[0]
    if lost == "manifest":
        (chain / manifest_name(first.id)).unlink()
    else:
        shutil.rmtree(chain / first.id)
    change(image, "four")
    words = ("send", f"{image}@four", "--to", chain)
    assert run(*words, "--since", "three") == EXIT_FAILED
    assert "no stream there has what 'pramfs@three' is" in capsys.readouterr().err
    assert run(*words, "--incremental") == 0
    new = tmp_path / "new"
    assert run("receive", "--from", chain, "--size", "8m", new) == 0
    assert identity(new, "pramfs@four") == identity(image, "pramfs@four")


def test_what_is_there_but_cannot_be_received_is_sent_again(chain: Path, image: Path) -> None:
    first, *_, last = list_streams(open_place(str(chain))).streams
    words = ("send", f"{image}@three", "--to", chain, "--incremental")
    shutil.rmtree(chain / first.id)
    assert run(*words) == 0
    newest = list_streams(open_place(str(chain))).streams[-1]
    assert newest != last
    assert not newest.base


def test_what_is_there_is_found_beside_others_with_its_contents(chain: Path, image: Path) -> None:
    assert run("receive", "--from", f"{chain}@three", "--as", "@alike", image) == 0
    assert run("send", f"{image}@alike", "--to", chain) == 0
    before = sorted(chain.iterdir())
    assert run("send", f"{image}@three", "--to", chain, "--incremental") == 0
    assert run("send", f"{image}@three", "--to", chain, "--since", "two") == 0
    # Nor again when the snapshot that it builds on is only in the place.
    for snapshot in ("one", "two", "alike"):
        assert run("free", image, f"pramfs@{snapshot}") == 0
    assert run("send", f"{image}@three", "--to", chain, "--incremental") == 0
    assert sorted(chain.iterdir()) == before


def test_a_fifo_in_a_directory_is_no_piece(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = list_streams(open_place(str(chain))).streams[0]
    piece = chain / piece_name(first.id, 0)
    piece.unlink()
    os.mkfifo(piece)
    assert run("receive", "--from", chain, tmp_path / "new") == EXIT_FAILED
    assert (
        f"cannot read {piece_name(first.id, 0)} there: not a regular file"
        in capsys.readouterr().err
    )


def test_a_base_that_goes_away_meanwhile_is_missed(chain: Path, image: Path) -> None:
    place = open_place(str(chain))
    base = list_streams(place).streams[-1]
    change(image, "four")
    with source_at(Path(f"{image}@four"), "three") as sending:
        (chain / manifest_name(base.id)).unlink()
        with pytest.raises(NoBaseInPlace):
            upload(place, sending, base)
    assert "pramfs@four" not in [one.name for one in list_streams(place).streams]


def test_keep_drops_what_is_old_but_no_base(
    chain: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The three that are there are needed as long as the last of them is."""
    for snapshot, kept in (("four", 4), ("five", 2)):
        change(image, snapshot)
        assert run("send", f"{image}@{snapshot}", "--to", chain, "--keep", "2") == 0
        assert len(list_streams(open_place(str(chain))).streams) == kept
    assert len(list(chain.iterdir())) == 4  # a manifest and a folder each


def test_keep_leaves_other_trees_alone(chain: Path, tmp_path: Path) -> None:
    other = make_image(tmp_path / "other")
    take_in(other, "one")
    assert run("receive", "--from", chain, "--as", "tree", "--size", "8m", tmp_path / "n") == 0
    assert run("send", tmp_path / "n", "--name", "tree", "--to", chain, "--keep", "1") == 0
    assert len(list_streams(open_place(str(chain))).streams) == 4


def test_keep_by_time_keeps_what_is_young(chain: Path) -> None:
    place = open_place(str(chain))
    assert drop_old(place, list_streams(place).streams[-1], 0, 3600) == []


@pytest.mark.parametrize("keep", ["1", "1h"])
def test_a_clock_that_was_put_back_loses_nothing(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    """What is sent last is the newest, whatever the clock says, and stays."""
    place = tmp_path / "place"
    assert run("send", f"{image}@one", "--to", place) == 0
    change(image, "two")
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns - 10 * 365 * 86400 * 10**9)
    assert run("send", f"{image}@two", "--to", place, "--keep", keep) == 0
    assert list_streams(open_place(str(place))).streams[-1].name == "pramfs@two"


def test_what_the_place_has_already_is_not_dropped(chain: Path, image: Path) -> None:
    change(image, "four")
    assert run("send", f"{image}@four", "--to", chain) == 0
    assert run("send", f"{image}@one", "--to", chain, "--keep", "1") == 0
    assert [one.name for one in list_streams(open_place(str(chain))).streams] == [
        "pramfs@one",
        "pramfs@four",
    ]


def stream_of(number: int, base: int | None) -> Manifest:
    """A stream of the tree that is called by that number."""

    def id_(number: int) -> str:
        return f"20261129T120516Z-{number:08x}"

    return Manifest(
        id=id_(number), name=f"pramfs@{number}", identity=f"{number:064x}", entries=1, pages=1,
        base="" if base is None else id_(base),
        base_name="" if base is None else f"pramfs@{base}",
        base_identity="" if base is None else f"{base:064x}",
        base_entries=1, compressed=False, sent_ns=number, sent_by="", size=1, piece_bytes=1, pieces=("0",),
    )  # fmt: skip


@pytest.mark.parametrize("every", [1, 7, 40, 1000])
def test_hundreds_of_snapshots_are_kept_as_far_as_they_are_needed(every: int) -> None:
    """Each is an increment since the one before, but that each so many all is sent."""
    there: list[Manifest] = []
    for number in range(120):
        there.append(stream_of(number, number - 1 if number % every else None))
        listing = Listing(tuple(there), folders=frozenset(one.id for one in there))
        dropped = {one.id for one in to_drop(listing, there[-1], 3, 0, 0)}
        there = [one for one in there if one.id not in dropped]
        left = Listing(tuple(there), folders=frozenset(one.id for one in there))
        assert not any(map(left.missing_for, left.streams))
        oldest_kept = max(0, number - 2)
        assert there[0].sent_ns == oldest_kept - oldest_kept % every
        assert len(there) == number + 1 - there[0].sent_ns


@pytest.mark.parametrize("words", [(), ("--keep", "9")], ids=["without keep", "keep"])
def test_the_next_sender_removes_what_was_never_finished_when_it_is_old(
    chain: Path, image: Path, words: tuple[str, ...]
) -> None:
    old, young = chain / "20200101T000000Z-00000000", chain / "20260101T000000Z-00000000"
    other, new = chain / "of somebody else", chain / "20260101T000000Z-00000001"
    manifest = chain / f"{manifest_name(old.name)}.part"
    manifest.write_bytes(b"{")
    for folder in (old, young, other, new):
        folder.mkdir()
        if folder != new:
            (folder / "00000000").write_bytes(b"piece")
    for path in (old / "00000000", other / "00000000", manifest):
        os.utime(path, (time.time() - 100000,) * 2)
    assert run("send", f"{image}@one", "--to", chain, *words) == 0
    assert not old.exists()
    assert not manifest.exists()
    assert all(folder.exists() for folder in (young, other, new))


def test_what_cannot_be_cleaned_up_is_told_and_the_stream_is_sent(
    chain: Path, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = chain / "20200101T000000Z-00000000"
    old.mkdir()
    os.utime(old, (0, 0))

    def refuse(_store: LocalStore, _folder: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(LocalStore, "remove_folder", refuse)
    change(image, "four")
    assert run("send", f"{image}@four", "--to", chain) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("pramfs: warning: what an interrupted upload has left: ")
    assert list_streams(open_place(str(chain))).streams[-1].name == "pramfs@four"


@pytest.mark.parametrize(
    "words",
    [
        ("--keep", "1"),
        ("--incremental",),
        ("--to", "p", "--keep", "0"),
        ("--to", "p", "--keep", "soon"),
        ("--to", "p", "--since", "one", "--incremental"),
        ("--to", ""),
        ("--to", "ftp://host/p"),
        ("--to", "https://host/p"),
        ("--to", "s3:///p"),
        ("--to", "sftp://u:secret@host/p"),
        ("--to", "sftp://u:secret@host:port/p"),
        ("--to", "sftp://u:secret/2@host/p"),
        ("--to", "sftp://u:a#secret@host/p"),
        ("--to", "sftp://host:99999/p"),
        ("--to", "sftp://[::1/p"),
        ("--to", "sftp://host/p?"),
        ("--to", "s3://bucket/p?"),
        ("--to", "s3://bucket/what?x=y"),
        ("--to", "s3://bucket/p#"),
        ("--to", "s3://bucket/p\tq"),
        ("--to", "s3://bucket/../other"),
        ("--to", "s3://bucket/./p"),
        ("--to", "s3://key:secret@bucket/p"),
    ],
)
def test_wrong_usage_is_told_without_secrets(
    image: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("send", f"{image}@one", *words) == EXIT_USAGE
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "secret" not in told


@pytest.mark.parametrize(
    "words",
    [
        ("send", "--to", "place", "/image"),
        ("receive", "--from", "place", "/image"),
        ("receive", "--from", "place@stream", "/image"),
        ("snapshots", "place"),
        ("extract", "/image"),  # to here
    ],
)
def test_a_place_in_a_directory_that_is_gone_is_wrong_usage(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(SystemExit) as ended:
        run(*words)
    assert ended.value.code == EXIT_USAGE
    assert "current directory is gone, give an absolute path" in capsys.readouterr().err


def test_an_empty_place_has_nothing_to_receive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("receive", "--from", tmp_path / "p", tmp_path / "new") == EXIT_FAILED
    told = capsys.readouterr().err
    assert told == f"pramfs: {tmp_path}/p: there is no stream to receive; there are none\n"


def test_an_empty_place_has_nothing_to_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("snapshots", tmp_path) == EXIT_FAILED
    assert capsys.readouterr() == ("", f"pramfs: {tmp_path}: there are no streams\n")


def test_what_is_a_stream_and_not_a_place_is_told(
    chain: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is done with it; what is no stream is no image."""
    stream, other = tmp_path / "stream", tmp_path / "other"
    with source_at(Path(f"{image}@one")) as sending, stream.open("wb") as file:
        sending.to(lambda parts: sum(map(file.write, parts)))
    other.write_bytes(b"something else")
    first = list_streams(open_place(str(chain))).streams[0].id
    parts = (chain / manifest_name(first), chain / first, chain / piece_name(first, 0))
    in_file = "not a directory with streams; a stream in a file is for: pramfs receive IMAGE < FILE"
    of_part = f"a part of a stream, not a directory with streams; name the directory: {chain}"
    told = [(stream, f"a file, {in_file}"), *((part, of_part) for part in parts)]
    capsys.readouterr()
    for path, words in told:
        for command in (
            ("receive", "--from", path, tmp_path / "new"),
            ("send", "--to", path, f"{image}@one"),
            ("send", "--to", path, "--keep", "1", f"{image}@one"),
            ("snapshots", path),
        ):
            assert run(*command) == EXIT_FAILED
            expected = words.replace("a file, ", "a stream in a file, ", command[0] == "snapshots")
            assert capsys.readouterr().err == f"pramfs: {path}: {expected}\n"
    os.mkfifo(tmp_path / "fifo")
    for path in (other, tmp_path / "fifo"):
        assert run("snapshots", path) == EXIT_FAILED
        assert "not a pram image" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("lost", ["base", "pieces of the base"])
def test_a_stream_without_its_base_is_marked_in_the_list(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: str
) -> None:
    base = list_streams(open_place(str(chain))).streams[0].id
    capsys.readouterr()
    assert run("snapshots", chain) == 0
    told = capsys.readouterr().out
    assert "cannot" not in told
    assert " KiB" in told  # and not 0.0 MiB
    shutil.rmtree(chain / base)
    if lost == "base":
        (chain / manifest_name(base)).unlink()
    assert run("snapshots", chain) == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert all(line.endswith(f", cannot be received: {base} is not there") for line in lines)
    assert run("snapshots", "--json", chain) == 0
    streams = json.loads(capsys.readouterr().out)["streams"]
    assert {one["missing"] for one in streams} == {base}
    assert run("receive", "--from", chain, tmp_path / "new") == EXIT_FAILED


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("s3://b/p", ("s3://b/p", "")),
        ("s3://b/p@new", ("s3://b/p", "new")),
        ("s3://b@new", ("s3://b@new", "")),
        ("s3://b/@new", ("s3://b/", "new")),
        ("s3://b/p@tree@new", ("s3://b/p", "tree@new")),
        ("sftp://me@host/p", ("sftp://me@host/p", "")),
        ("sftp://me@host/p@new", ("sftp://me@host/p", "new")),
        ("/a@b/c", ("/a@b/c", "")),
        ("/a/c@b/", ("/a/c@b/", "")),
        ("c@new", ("c", "new")),
    ],
)
def test_a_stream_may_be_named_behind_a_place(text: str, parts: tuple[str, str]) -> None:
    assert split_place(text) == parts


def test_without_the_extra_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(PramError, match=r"s3:// needs s3fs.*pip install 'pramfs\[remote\]'"):
        open_place("s3://bucket/prefix")


def test_the_libraries_print_nothing() -> None:
    """As asyncio does, many times over, when a connection is lost."""
    code = (
        "import logging; from pramfs.remote.place import open_place;"
        "open_place('sftp://host/p'); logging.getLogger('asyncio').warning('socket.send() raised')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_the_libraries_are_loaded_for_nothing_else(image: Path, tmp_path: Path) -> None:
    """Not for a directory either."""
    code = (
        "import sys; from pramfs.cli.main import main;"
        f"main(['send', '{image}@one', '--to', '{tmp_path}/p']); main(['check', '{image}']);"
        f"main(['receive', '--from', '{tmp_path}/p', '{tmp_path}/new']);"
        "print({'fsspec', 's3fs', 'sshfs', 'aiohttp', 'botocore', 'asyncssh'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
