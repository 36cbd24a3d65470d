"""What went wrong in a place, in one line without secrets, and whether it may go better the next time.

The libraries are not imported here: their exceptions are known by the names of their classes.
"""

import errno
import os
import re

from pramfs.system.text import printable

_PASSING = {
    "ChannelOpenError",
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionClosedError",
    "ConnectionError",  # of Python, and of botocore
    "ConnectionLost",
    "DisconnectError",
    "FSTimeoutError",
    "HTTPClientError",
    "IncompleteReadError",
    "ResponseStreamingError",
    "SFTPConnectionLost",
    "SFTPNoConnection",
    "SSLError",
    "TimeoutError",
}
_LASTING = {
    "ClientConnectorCertificateError",
    "FileNotFoundError",  # the authorities for a certificate
    "HostKeyNotVerifiable",
    "IllegalUserName",
    "KeyExchangeFailed",
    "PermissionDenied",
    "ProtocolNotSupported",
    "gaierror",
}
_BAD_CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"  # as OpenSSL says it
_PASSING_ERRNOS = {
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ETIMEDOUT,
}
_PASSING_STATUS = {408, 429, 500, 502, 503, 504}
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_SECRET_MIN = 8  # characters
_TOLD_MAX = 300  # characters
_ERRNO = re.compile(r"\[Errno -?\d+\] ")
# Of a URL: of a proxy or another server, from the environment.
_LOGIN = re.compile(r"(?<=://)[^\s\"'/]+@")
_QUERY = re.compile(r"\?[^\s\"']*(?==)[^\s\"']*")  # of a URL, which may be signed


def is_passing(error: BaseException) -> bool:
    """Return whether an error may be gone the next time: a connection was lost, a server is busy."""
    status = _status(error)
    if status:
        return status in _PASSING_STATUS
    classes = {
        base.__name__
        for one in _with_causes(error)
        for base in type(one).__mro__
        if base.__name__ in _PASSING | _LASTING
    }
    if classes:
        return not classes & _LASTING and _BAD_CERTIFICATE not in str(error)
    return isinstance(error, OSError) and error.errno in _PASSING_ERRNOS


def words_for(error: BaseException) -> str:
    """Return one line that says what happened."""
    kind = type(error).__name__
    if kind in {"NoCredentialsError", "PartialCredentialsError"}:
        return "no credentials: they are looked for in AWS_ACCESS_KEY_ID and so on, and in ~/.aws"
    told = getattr(error, "reason", None) or _message(error)
    told = _LOGIN.sub("", _QUERY.sub("", " ".join(str(told).split()))) or kind
    told = _ERRNO.sub("", told)
    if kind == "SFTPFailure" and told == "Failure":
        told += " (that is all it says; is there room?)"
    if kind == "HostKeyNotVerifiable":
        told += " (known_hosts has another one or none; see what ssh says)"
    for name in _SECRETS:
        secret = os.environ.get(name, "")
        if len(secret) >= _SECRET_MIN:  # shorter ones are no secrets, and occur everywhere
            told = told.replace(secret, f"${name}")
    return printable(told[:_TOLD_MAX])


def _message(error: BaseException) -> str:
    for one in _with_causes(error):
        answer = getattr(one, "response", None)
        if isinstance(answer, dict):
            said = answer.get("Error", {})
            return f"{said.get('Message', '')} ({said.get('Code', '?')})"
    if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
        return "connection refused"  # asyncio has its own words for it, which aiohttp repeats
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    status = _status(error)
    message = getattr(error, "message", None)
    if status and message:  # of aiohttp, whose own text has the URL and more
        return f"{status} {message}"
    return str(error)


def _status(error: BaseException) -> int:
    """Return the status of a server's answer, 0 if there was none."""
    for one in _with_causes(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if isinstance(status, int) and status:
                return status
        status = getattr(one, "status", 0)
        if isinstance(status, int) and status >= 400:
            return status
    return 0


def _with_causes(error: BaseException) -> list[BaseException]:
    found = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        inner = getattr(cause, "kwargs", {}).get("error")  # of botocore
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
    return found
