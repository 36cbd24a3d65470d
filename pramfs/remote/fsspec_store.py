"""A place that fsspec knows how to reach: what pramfs needs of it, and how its file systems are made.

Credentials are found by the libraries, where the tools of each kind of place look for them.
"""

import asyncio
import contextlib
import errno
import importlib
import logging
import socket
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pramfs.errors import PramError
from pramfs.remote.store import PART_SUFFIX, Entry

_CONNECT_S = 20
_SILENCE_S = 60  # so long a connection may say nothing
_KEEPALIVE_S = 15
_CANCELS = 20
_BETWEEN_CANCELS_S = 0.05
_TALKERS = ("aiobotocore", "aiohttp", "asyncio", "asyncssh", "botocore", "fsspec", "s3fs", "sshfs")

Make = Callable[[], Any]  # of a fsspec file system


class SetupError(Exception):
    """What is needed here to reach a place cannot be used. The message says what."""


class FsspecStore:
    """Files below `root` in a file system of fsspec, which `make` makes."""

    def __init__(self, make: Make, root: str, *, has_folders: bool, is_atomic: bool) -> None:
        """Connect. `is_atomic`: a file that is being written is not there yet, as in S3."""
        self._make = make
        self._root = root.rstrip("/")
        self._has_folders = has_folders
        self._is_atomic = is_atomic
        self._files: Any = None
        self._lock = threading.Lock()

    def entries(self, folder: str = "") -> list[Entry]:
        path = self._path(folder) if folder else self._root
        files = self._opened()
        try:
            infos = files.ls(path, detail=True, refresh=True)
        except FileNotFoundError as exc:
            if exc.__cause__ is not None and hasattr(exc.__cause__, "response"):
                raise  # not the prefix is missing, but the bucket
            infos = []  # or a file, of which OpenSSH says the same
        paths = [str(info["name"]) for info in infos]
        if paths == [path] or (not paths and self._is_file(files, path)):
            raise NotADirectoryError(errno.ENOTDIR, "it is a file")
        names = (one.rstrip("/").rpartition("/")[2] for one in paths)
        return [
            Entry(name, info["type"] == "directory", _modified_s(info))
            for name, info in zip(names, infos, strict=True)
        ]

    def get(self, name: str) -> bytes:
        return bytes(self._opened().cat_file(self._path(name)))

    def put(self, name: str, data: bytes | memoryview) -> None:
        files, path, data = self._opened(), self._path(name), bytes(data)
        if self._is_atomic:
            files.pipe_file(path, data)
            return
        folder, _, last = path.rpartition("/")
        files.makedirs(folder, exist_ok=True)
        part = f"{folder}/.{last}{PART_SUFFIX}"
        files.pipe_file(part, data)
        if files is not self._files:  # what is cancelled returns as if it were done
            raise ConnectionAbortedError(errno.ECONNABORTED, "given up")
        files.mv(part, path)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._opened().rm_file(self._path(name))

    def remove_folder(self, folder: str) -> None:
        if self._has_folders:
            with contextlib.suppress(FileNotFoundError):
                self._opened().rm(self._path(folder), recursive=True)

    def renew(self) -> None:
        self._files = None

    def close(self) -> None:
        self._files = None
        loop = importlib.import_module("fsspec.asyn").get_loop()
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()

    def _opened(self) -> Any:
        with self._lock:
            if self._files is None:
                try:
                    self._files = self._make()
                except OSError as exc:
                    if exc.filename is None:
                        raise
                    # A file of this machine, such as a key: nothing is missing in the place.
                    raise SetupError(f"{exc.filename}: {exc.strerror}") from exc
            return self._files

    def _is_file(self, files: Any, path: str) -> bool:
        if not self._has_folders:
            return False  # it would have been listed
        try:
            info = files.info(path)
        except FileNotFoundError:
            return False
        # On a web server a directory is a page.
        return bool(info["type"] == "file" and info.get("mimetype") != "text/html")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


async def _cancel_all() -> None:
    """End all tasks of this loop, also those that wait for the server once more when they are cancelled."""
    for _ in range(_CANCELS):
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if not others:
            return
        for task in others:
            task.cancel()
        await asyncio.sleep(_BETWEEN_CANCELS_S)


def s3_store(bucket: str, prefix: str) -> FsspecStore:
    """Return the store of a bucket, with the settings and credentials that the AWS tools have."""
    library = _library("s3fs", "s3://")
    config = {
        "connect_timeout": _CONNECT_S,
        "read_timeout": _SILENCE_S,
        "retries": {"total_max_attempts": 1},  # a Place tries again
        "connector_args": {"socket_factory": _impatient_socket},
        # Pieces have digests of their own, and not every server knows these.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }

    def make() -> Any:
        files = library.S3FileSystem(
            config_kwargs=config,
            max_concurrency=1,  # else it asks for the size of each piece before it reads it
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        files.retries = 1
        # aiohttp waits without end for the answer to this header.
        events = files.connect().meta.events
        events.register("request-created.s3.PutObject", _expect_nothing)
        return files

    return FsspecStore(make, f"{bucket}/{prefix}", has_folders=False, is_atomic=True)


def _expect_nothing(request: Any, **_: Any) -> None:
    del request.headers["Expect"]  # no error without it


def _impatient_socket(address: tuple[Any, ...]) -> socket.socket:
    """Make a socket that fails when what it sends is not taken; the timeouts of aiohttp are for answers."""
    made = socket.socket(*address[:3])
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_S * 1000)
    return made


def sftp_store(host: str, port: int | None, user: str | None, path: str) -> FsspecStore:
    """Return the store of a directory of an ssh server, with ssh's configuration, keys and agent."""
    library = _library("sshfs", "sftp://")
    # Unless it is told so, sshfs takes any host key. () means those that ssh knows.
    settings: dict[str, Any] = {
        "known_hosts": (),
        "keepalive_interval": _KEEPALIVE_S,
        "connect_timeout": _CONNECT_S,
        "skip_instance_cache": True,
    }
    settings |= {"port": port} if port else {}
    settings |= {"username": user} if user else {}
    return FsspecStore(
        lambda: library.SSHFileSystem(host, **settings), path, has_folders=True, is_atomic=False
    )


def https_store(url: str) -> FsspecStore:
    """Return the store of a directory of a web server, to read. Passwords may be in ~/.netrc."""
    library = _library("fsspec.implementations.http", "https://")
    aiohttp = _library("aiohttp", "https://")

    def make() -> Any:
        timeout = aiohttp.ClientTimeout(sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
        return library.HTTPFileSystem(
            client_kwargs={"trust_env": True, "timeout": timeout},
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    return FsspecStore(make, url, has_folders=True, is_atomic=True)


def _library(name: str, what: str) -> Any:
    """Import a library that `what` needs, and keep its complaints from the terminal: errors are told once."""
    for talker in _TALKERS:
        logging.getLogger(talker).addHandler(logging.NullHandler())
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        missing = exc.name or name
        told = f"{what} needs {missing}, which is not installed here: pip install 'pramfs[remote]'"
        raise PramError(told) from exc


def _modified_s(info: dict[str, Any]) -> float | None:
    when = info.get("LastModified") or info.get("mtime") or info.get("created")
    if isinstance(when, datetime):
        return when.timestamp()
    return float(when) if isinstance(when, int | float) else None
