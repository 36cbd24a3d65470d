"""zstd for bodies of records, from the standard library or its backport. Loaded only when it is needed."""

import importlib
from collections.abc import Callable
from types import ModuleType

from pramfs.errors import PramError
from pramfs.stream.decode import Decompress
from pramfs.stream.encode import Data

_MODULES = ("compression.zstd", "backports.zstd")  # the former from Python 3.14 on
# A frame may ask for as much memory as a window has; no body is larger than that.
_WINDOW_LOG_MAX = 21


def compressor() -> Callable[[Data], bytes]:
    """Return what makes one frame of a body. Raises PramError if there is no zstd."""
    zstd = _zstd()
    context = zstd.ZstdCompressor()

    def compress(body: Data) -> bytes:
        return bytes(context.compress(body, mode=context.FLUSH_FRAME))

    return compress


def decompressor() -> Decompress:
    """Return what makes a body of one frame, in memory that it is told. Raises PramError without zstd."""
    zstd = _zstd()
    options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}

    def decompress(frame: memoryview, size: int) -> bytes:
        context = zstd.ZstdDecompressor(options=options)
        try:
            body = bytes(context.decompress(frame, size + 1))
        except zstd.ZstdError as exc:
            raise ValueError(str(exc)) from exc
        if len(body) != size or not context.eof or context.unused_data:
            raise ValueError("it is not one frame of that size")
        return body

    return decompress


def _zstd() -> ModuleType:
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise PramError("zstd is not installed here: pip install 'pramfs[zstd]'")
