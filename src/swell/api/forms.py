"""The one file in a form, passed on as it comes.

Nothing of a form is kept but the headers of one part, so its size costs no memory.

Source:
    RFC 7578 (multipart/form-data), RFC 2046, section 5.1 (its parts).
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from swell.errors import InvalidRequest

__all__ = ["FilePart", "open_form"]

#: Parts of a form, with or without a file: each costs a little time.
_MAX_PARTS: Final = 100

#: The headers of a part may take 16 KiB together.
_MAX_HEADERS: Final = 8
_MAX_HEADER_BYTES: Final = 2048

#: The header that names the boundary; it has at most 70 characters.
_MAX_TYPE_BYTES: Final = 1024

#: How the bytes of a part may be written: as they are.
_PLAIN: Final = frozenset({b"", b"binary", b"8bit", b"7bit"})


@dataclass(frozen=True, slots=True)
class FilePart:
    """What a form says of its file."""

    filename: str
    #: As the client wrote it, without parameters and in lower case.
    media_type: str


async def open_form(
    content_type: bytes, chunks: AsyncIterator[bytes]
) -> tuple[FilePart, AsyncIterator[bytes]]:
    """Return what a form says of its one file, and the file's bytes as they come.

    Fields without a file name are passed over. That the form is whole, and that no second file
    follows, shows at its end: then the iterator raises what is said below.

    Args:
        content_type: Header of the request.
        chunks: Its body.

    Raises:
        InvalidRequest: The form cannot be read, or does not hold exactly one file.
    """
    form = _Form(_boundary(content_type))
    async for chunk in chunks:
        form.feed(chunk)
        if form.file is not None:
            return form.file, _rest(form, chunks)
    form.check_whole()
    raise _not_one(0)


async def _rest(form: "_Form", chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for piece in form.take():
        yield piece
    async for chunk in chunks:
        form.feed(chunk)
        for piece in form.take():
            yield piece
    form.check_whole()


class _Form:
    """A form as far as it has come."""

    def __init__(self, boundary: bytes) -> None:
        #: The file, once its headers are there.
        self.file: FilePart | None = None
        self._data: list[bytes] = []
        self._is_whole = False
        self._is_in_file = False
        self._n_parts = 0
        self._name = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_to_name,
                    "on_header_value": self._add_to_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_data,
                    "on_end": self._end,
                },
                max_header_count=_MAX_HEADERS,
                max_header_size=_MAX_HEADER_BYTES,
            )
        except FormParserError as error:
            raise _unreadable(error) from error

    def feed(self, chunk: bytes) -> None:
        """Read on.

        Raises:
            InvalidRequest: This is no form, or it has a second file.
        """
        if self._is_whole:
            return  # what stands behind the last boundary means nothing
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _unreadable(error) from error

    def take(self) -> list[bytes]:
        """Return the file's bytes that have come since the last call."""
        taken, self._data = self._data, []
        return taken

    def check_whole(self) -> None:
        """Raise `InvalidRequest` if the last boundary has not come."""
        if not self._is_whole:
            raise InvalidRequest("the form cannot be read: it ends before its last boundary")

    def _begin_part(self) -> None:
        self._n_parts += 1
        if self._n_parts > _MAX_PARTS:
            raise InvalidRequest(f"the form has more than {_MAX_PARTS} parts: send the file alone")
        self._headers = {}
        self._is_in_file = False

    def _add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value.strip()
        self._name = self._value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        filename = options.get(b"filename")
        if filename is None:
            return
        if self.file is not None:
            raise _not_one(2)
        written = self._headers.get(b"content-transfer-encoding", b"").lower()
        if written not in _PLAIN:
            raise InvalidRequest("the form's file is encoded: send its bytes as they are")
        media_type, _ = parse_options_header(self._headers.get(b"content-type", b"text/plain"))
        self.file = FilePart(filename.decode(errors="replace"), media_type.decode("latin-1"))
        self._is_in_file = True

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_in_file:
            self._data.append(data[start:end])

    def _end(self) -> None:
        self._is_whole = True


def _boundary(content_type: bytes) -> bytes:
    if len(content_type) <= _MAX_TYPE_BYTES:
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        if boundary:
            return boundary
    raise InvalidRequest("the form cannot be read: its Content-Type names no boundary")


def _unreadable(error: FormParserError) -> InvalidRequest:
    return InvalidRequest(f"the form cannot be read: {error}")


def _not_one(n: int) -> InvalidRequest:
    many = "no file" if n == 0 else f"{n} files or more"
    return InvalidRequest(f"the form holds {many}: send exactly one part with a file name")
