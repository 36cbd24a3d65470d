"""A place that keeps streams, as users name it. What fails there and may succeed is tried again."""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from pramfs.errors import NotAPlace, PlaceFailed, PramError, UsageError
from pramfs.remote.failures import is_passing, words_for
from pramfs.remote.fsspec_store import https_store, s3_store, sftp_store
from pramfs.remote.local import LocalStore
from pramfs.remote.manifest import place_of
from pramfs.remote.store import Entry, Store
from pramfs.saves.snapshot_names import SNAPSHOT_MARK

_WAITS_S = (0.5, 1, 2, 4)  # between attempts

Result = TypeVar("Result")


class Place:
    """A store with the name that users know it by."""

    def __init__(self, name: str, store: Store) -> None:
        self.name = name
        self._store = store
        self._lock = threading.Lock()
        self._renewals = 0
        self._given_up = threading.Event()

    def entries(self, folder: str = "") -> list[Entry]:
        """Return what is there. Raises NotAPlace if it is a file, or PlaceFailed, as all methods do."""
        try:
            return self._attempt("list what is", lambda: self._store.entries(folder))
        except PlaceFailed as exc:
            if isinstance(exc.__cause__, NotADirectoryError):
                raise no_place(self.name) from exc
            raise

    def get(self, name: str) -> bytes:
        return self._attempt(f"read {name}", lambda: self._store.get(name))

    def get_if_there(self, name: str) -> bytes | None:
        """Return the contents of a file, None if it is not there."""
        try:
            return self.get(name)
        except PlaceFailed as exc:
            if isinstance(exc.__cause__, FileNotFoundError):
                return None
            raise

    def put(self, name: str, data: bytes | memoryview) -> None:
        self._attempt(f"write {name}", lambda: self._store.put(name, data))

    def remove(self, name: str) -> None:
        self._attempt(f"remove {name}", lambda: self._store.remove(name))

    def remove_folder(self, folder: str) -> None:
        self._attempt(f"remove {folder}", lambda: self._store.remove_folder(folder))

    def give_up(self) -> None:
        """Try nothing again from now on: another call has failed for good."""
        self._given_up.set()

    def take_heart(self) -> None:
        """Try again from now on."""
        self._given_up.clear()

    def close(self) -> None:
        """End all calls that are under way; what they return means nothing."""
        self._store.close()

    def _attempt(self, what: str, call: Callable[[], Result]) -> Result:
        for wait_s in (*_WAITS_S, None):
            renewals = self._renewals
            try:
                return call()
            except PramError:
                raise
            except Exception as exc:
                # What libraries raise has no common base.
                may_pass = is_passing(exc)
                if may_pass:
                    self._renew(renewals)
                if wait_s is None or not may_pass or self._rest(wait_s):
                    raise PlaceFailed(self.name, what, words_for(exc)) from exc
        raise AssertionError("the last attempt returns or raises")

    def _rest(self, wait_s: float) -> bool:
        """Wait before the next attempt; return whether there is none. Not all wait equally long."""
        return self._given_up.wait(wait_s * random.uniform(0.75, 1.25))

    def _renew(self, renewals: int) -> None:
        """Connect anew, unless another thread has done so since this one began."""
        with self._lock:
            if renewals == self._renewals:
                self._renewals += 1
                self._store.renew()


def no_place(name: str, what: str = "a file") -> NotAPlace:
    """Return the error for a path or URL that is no place; with the place if it is a part of a stream."""
    place = place_of(name)
    if place is not None:
        return NotAPlace(name, "a part of a stream", f"name the directory: {place}")
    return NotAPlace(name, what, "a stream in a file is for: pramfs receive IMAGE < FILE")


def is_url(text: str) -> bool:
    """Return whether a place is named by a URL; it is a path otherwise."""
    return "://" in text


def split_place(text: str) -> tuple[str, str]:
    """Return the place, and the stream that is named behind it with @, "" if there is none."""
    start = text.rfind("/") + 1
    if is_url(text):
        # The @ of sftp://USER@HOST names no stream.
        start = max(start, text.find("/", text.index("://") + 3) + 1 or len(text))
    before, mark, stream = text[start:].partition(SNAPSHOT_MARK)
    return (text[:start] + before, stream) if mark else (text, "")


def open_place(text: str, *, writable: bool = False) -> Place:
    """Return the place with that URL or path. Nothing is asked of it yet.

    Raises UsageError, or PramError if a library is missing.
    """
    if not text:
        raise UsageError("an empty path is no place")  # it is an unset variable, not this directory
    if not is_url(text):
        return Place(text, LocalStore(Path(text)))
    parts, port = _parts_of(text)
    if parts.scheme == "s3":
        return Place(text, s3_store(parts.netloc, parts.path.strip("/")))
    if parts.scheme == "sftp":
        path = "/" + parts.path.lstrip("/")
        return Place(text, sftp_store(str(parts.hostname), port, parts.username, path))
    if writable:
        raise UsageError(f"'{text}': https:// is only to receive from")
    return Place(text, https_store(text))


_FORMS = {"s3": "BUCKET/PREFIX", "sftp": "[USER@]HOST[:PORT]/PATH", "https": "HOST/PATH"}


def _parts_of(text: str) -> tuple[SplitResult, int | None]:
    """Return the parts of a URL, and its port. Raises UsageError."""
    scheme = text.partition("://")[0].lower()
    if scheme not in _FORMS:
        raise UsageError(
            f"'{_without_password(text)}': s3://, sftp://, https:// or a path expected"
        )
    # The URL is not repeated as long as nobody knows where a password in it ends.
    form = f"'{scheme}://…': {scheme}://{_FORMS[scheme]} expected"
    if set("?#\t\r\n") & set(text):  # which urlsplit would take out
        raise UsageError(f"{form}, without ? and # and line breaks")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as exc:
        raise UsageError(form) from exc
    if parts.password is not None:
        shown = _without_password(text)
        raise UsageError(f"'{shown}': no passwords in a URL: everybody sees them in ps(1)")
    if not parts.hostname:
        raise UsageError(form)
    if scheme != "sftp" and {".", ".."} & set(parts.path.split("/")):
        raise UsageError(f"'{text}': only a directory can have . or .. in its path")
    return parts, port


def _without_password(text: str) -> str:
    """Return a URL without what stands between user and host."""
    scheme, mark, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    login, at, host = host.rpartition(SNAPSHOT_MARK)
    return scheme + mark + login.partition(":")[0] + at + host + slash + path
