"""Files in any encoding, read as UTF-8.

What can't be decoded becomes bytes that are no UTF-8, so that the record which holds it is rejected, in its place, and
no other. UTF-8 itself is passed through as it is.
"""

import codecs
import io
from typing import BinaryIO, cast

from reconcile.inputs.layout import AUTO

BLOCK_BYTES = 1 << 20
# The longer first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)
_LONGEST_MARK = 4
_UNDECODABLE = "reconcile-undecodable"


def encoding_of(start: bytes, declared: str) -> str:
    """The encoding of a file by its first bytes: a byte order mark says it, else the feed, else it is UTF-8.

    A mark outweighs what is declared: in no other encoding does a header begin like that.
    """
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8" if declared == AUTO else declared)


def as_utf8(stream: BinaryIO, declared: str) -> BinaryIO:
    """The stream, read from its start, in UTF-8; a byte order mark of UTF-8 may still stand in front."""
    start = stream.read(_LONGEST_MARK)
    encoding = encoding_of(start, declared)
    stream.seek(0)
    if codecs.lookup(encoding).name in {"utf-8", "utf-8-sig"}:
        return stream
    return cast(BinaryIO, io.BufferedReader(_Recoded(stream, encoding), BLOCK_BYTES))


class _Recoded(io.RawIOBase):
    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)(errors=_UNDECODABLE)
        self._rest = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest and not self._ended:
            data = self._stream.read(BLOCK_BYTES)
            self._ended = not data
            text = self._decoder.decode(data, final=self._ended)
            self._rest = memoryview(text.encode("utf-8", "surrogatepass"))
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def _undecodable(error: UnicodeError) -> tuple[str, int]:
    """Half of a surrogate pair: written out as UTF-8 it is none."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udfff", error.end


codecs.register_error(_UNDECODABLE, _undecodable)
