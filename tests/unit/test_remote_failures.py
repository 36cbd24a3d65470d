"""What goes wrong in a place is told in one line, without secrets, and tried again if it may pass."""

import contextlib
import errno
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import aiohttp
import asyncssh
import botocore.exceptions  # type: ignore[import-untyped]
import pytest
from aiohttp.client_reqrep import ConnectionKey
from fsspec.exceptions import FSTimeoutError  # type: ignore[import-untyped]
from s3fs.errors import translate_boto_error  # type: ignore[import-untyped]
from yarl import URL

from pramfs.errors import PlaceFailed
from pramfs.remote import fsspec_store, place
from pramfs.remote.failures import is_passing, words_for

SECRET = "wJalrXUtnFEMIbPxRfiCYEXAMPLEKEY"


def s3_error(code: str, status: int, message: str = "what the server says") -> BaseException:
    answer: dict[str, Any] = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    error = translate_boto_error(botocore.exceptions.ClientError(answer, "PutObject"))
    assert isinstance(error, BaseException)
    return error


def https_error(status: int, message: str) -> BaseException:
    info = aiohttp.RequestInfo(URL("https://host/p?X=1"), "GET", None, URL("https://host/p"))  # type: ignore[arg-type]
    return aiohttp.ClientResponseError(info, (), status=status, message=message)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        TimeoutError(),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        FSTimeoutError(),
        botocore.exceptions.EndpointConnectionError(endpoint_url="http://host/b?list-type=2&p=q"),
        botocore.exceptions.ReadTimeoutError(endpoint_url="http://host"),
        botocore.exceptions.ConnectionClosedError(endpoint_url="http://host"),
        botocore.exceptions.HTTPClientError(error="reset"),
        botocore.exceptions.SSLError(endpoint_url="https://host", error="EOF occurred"),
        ssl.SSLEOFError(8, "EOF occurred"),
        s3_error("SlowDown", 503),
        s3_error("InternalError", 500),
        https_error(502, "Bad Gateway"),
        aiohttp.ClientPayloadError("not enough data"),
        aiohttp.ServerDisconnectedError(),
        asyncssh.ConnectionLost("Connection lost"),
        asyncssh.SFTPConnectionLost("Connection lost"),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again(error: BaseException) -> None:
    assert is_passing(error)
    assert words_for(error)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (s3_error("AccessDenied", 403), "what the server says (AccessDenied)"),
        (s3_error("NoSuchBucket", 404), "what the server says (NoSuchBucket)"),
        (s3_error("QuotaExceeded", 413), "what the server says (QuotaExceeded)"),
        (s3_error("InsufficientStorage", 507), "what the server says (InsufficientStorage)"),
        (s3_error("SignatureDoesNotMatch", 403), "what the server says (SignatureDoesNotMatch)"),
        (botocore.exceptions.NoCredentialsError(), "no credentials: they are looked for in"),
        (
            botocore.exceptions.SSLError(
                endpoint_url="h", error="[SSL: CERTIFICATE_VERIFY_FAILED]"
            ),
            "SSL validation",
        ),
        (https_error(403, "Forbidden"), "403 Forbidden"),
        (asyncssh.PermissionDenied("Permission denied for user me"), "Permission denied for user"),
        (asyncssh.HostKeyNotVerifiable("Host key is not trusted"), "Host key is not trusted"),
        (asyncssh.SFTPFailure("/x is not a directory"), "/x is not a directory"),
        (
            botocore.exceptions.HTTPClientError(
                error=FileNotFoundError(errno.ENOENT, "No such file")
            ),
            "An HTTP Client raised an unhandled exception: No such file",
        ),
        (asyncssh.SFTPFailure("Failure"), "Failure (that is all it says; is there room?)"),
        (ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]"), "[SSL"),
    ],
    ids=repr,
)
def test_what_will_not_pass_is_told_at_once(error: BaseException, words: str) -> None:
    assert not is_passing(error)
    assert words_for(error).startswith(words)
    assert "\n" not in words_for(error)


@pytest.fixture
def silent_server(request: pytest.FixtureRequest) -> Iterator[int]:
    """A server that never answers; with the parameter "reads" it takes what is sent to it."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    stack.callback(connection.close)
                    while request.param == "reads" and connection.recv(1 << 16):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_refused_connection_is_told_in_the_words_of_the_system() -> None:
    error = ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)")
    assert words_for(error) == "connection refused"
    key = ConnectionKey("h", 1, True, True, None, None, None)
    assert words_for(aiohttp.ClientConnectorError(key, error)) == "connection refused"


@pytest.mark.parametrize("silent_server", ["reads", "does not read"], indirect=True)
def test_a_server_that_stays_silent_is_given_up(
    silent_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsspec_store, "_SILENCE_S", 1)
    monkeypatch.setattr(place, "_WAITS_S", ())
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent_server}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anybody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = place.open_place("s3://bucket/p", writable=True)
    with pytest.raises(PlaceFailed, match="cannot write piece there"):
        bucket.put("piece", bytes(16 << 20))


def test_a_file_that_is_needed_here_is_not_missed_in_the_place() -> None:
    """Such as a key that ~/.ssh/config names: the place does not look empty without it."""

    def make() -> Any:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/home/me/.ssh/key")

    store = fsspec_store.FsspecStore(make, "/p", has_folders=True, is_atomic=False)
    away = place.Place("sftp://host/p", store)
    for call in (
        away.entries,
        lambda: away.get_if_there("x"),
        lambda: away.remove("x"),
        lambda: away.remove_folder("x"),
        lambda: away.put("x", b""),
    ):
        with pytest.raises(PlaceFailed, match=r"there: /home/me/\.ssh/key: No such file"):
            call()


def test_no_login_of_another_url_is_told() -> None:
    told = words_for(
        ValueError(f"cannot reach 'http://me:{SECRET}@proxy:3128/' or https://{SECRET}@h")
    )
    assert told == "cannot reach 'http://proxy:3128/' or https://h"


def test_no_secret_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    told = words_for(ValueError(f"odd\nkey {SECRET} at https://host/p?X-Amz-Signature=abc&x=y, no"))
    assert told == "odd key $AWS_SECRET_ACCESS_KEY at https://host/p no"
