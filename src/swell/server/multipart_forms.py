"""Multipart forms, read as a stream: all parts in order, or the one file in a form.

Memory holds only the headers of one part and one chunk, for forms of any size.

Source:
    RFC 7578 (multipart/form-data), RFC 2046, section 5.1 (its parts).
"""

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from swell.core.errors import InvalidRequest

#: Most parts of a form, with or without a file.
_MAX_PARTS: Final = 100

#: The headers of a part may take 16 KiB together.
_MAX_HEADERS: Final = 8
_MAX_HEADER_BYTES: Final = 2048

#: Longest Content-Type; the boundary in it has at most 70 characters.
_MAX_TYPE_BYTES: Final = 1024

#: Default limit of a field's value.
MAX_FIELD_BYTES: Final = 1024 * 1024

#: Transfer encodings that leave the bytes unchanged.
_IDENTITY: Final = frozenset({b"", b"binary", b"8bit", b"7bit"})


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form: a field, or a file."""

    name: str
    #: None for a field.
    filename: str | None
    #: As the client wrote it, in lower case and without parameters.
    media_type: str
    #: The content. The next part skips unread bytes.
    data: AsyncIterator[bytes]

    async def text(self, limit_bytes: int = MAX_FIELD_BYTES) -> str:
        """Return the value of a field.

        Raises:
            InvalidRequest: It is longer than `limit_bytes`, or not UTF-8.
        """
        value = b""
        async for piece in self.data:
            value += piece
            if len(value) > limit_bytes:
                detail = f"the form's field {self.name[:60]!r} has more than {limit_bytes:,} bytes"
                raise InvalidRequest(detail)
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"the form's field {self.name[:60]!r} is not UTF-8") from error


async def read_parts(content_type: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[Part]:
    """Yield the parts of a form in order. Read each part before the next.

    Args:
        content_type: Header of the request.
        chunks: Body of the request.

    Raises:
        InvalidRequest: The form cannot be read.
    """
    form = _Form(content_type, chunks)
    while await form.fill():
        part = form.queue.popleft()
        # Bytes are the rest of a part that was not read.
        if isinstance(part, Part):
            yield part


async def open_form(content_type: bytes, chunks: AsyncIterator[bytes]) -> Part:
    """Return the one file in a form.

    Fields before and after the file are skipped. Its data raises at its end if the form is
    incomplete or has a second file.

    Args:
        content_type: Header of the request.
        chunks: Body of the request.

    Raises:
        InvalidRequest: The form cannot be read, or does not hold exactly one file.
    """
    parts = read_parts(content_type, chunks)
    async for part in parts:
        if part.filename is not None:
            return replace(part, data=_only_file(part, parts))
    raise InvalidRequest("the form holds no file: send exactly one part with a file name")


async def _only_file(file: Part, parts: AsyncIterator[Part]) -> AsyncIterator[bytes]:
    async for piece in file.data:
        yield piece
    async for part in parts:
        if part.filename is not None:
            raise InvalidRequest("the form holds 2 files or more: send exactly one")


class _Form:
    """A form that is being read."""

    def __init__(self, content_type: bytes, chunks: AsyncIterator[bytes]) -> None:
        #: Parsed and not read yet: each part, followed by its bytes.
        self.queue: deque[Part | bytes] = deque()
        self._chunks = chunks
        self._is_complete = False
        self._n_parts = 0
        self._name = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        try:
            self._parser = MultipartParser(
                _boundary(content_type),
                {
                    "on_header_field": self._add_to_name,
                    "on_header_value": self._add_to_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": lambda data, start, end: self.queue.append(data[start:end]),
                    "on_end": self._end,
                },
                max_header_count=_MAX_HEADERS,
                max_header_size=_MAX_HEADER_BYTES,
            )
        except FormParserError as error:
            raise _unreadable(error) from error

    async def fill(self) -> bool:
        """Read until the queue holds something; return False at the end of the form."""
        while not self.queue:
            chunk = await anext(self._chunks, None)
            if self._is_complete and chunk is None:
                return False
            # Bytes after the last boundary mean nothing.
            if not self._is_complete:
                if chunk is None:
                    raise _unreadable("it ends before its last boundary")
                try:
                    self._parser.write(chunk)
                except FormParserError as error:
                    raise _unreadable(error) from error
        return True

    async def data(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the current part."""
        while await self.fill() and not isinstance(self.queue[0], Part):
            piece = self.queue.popleft()
            assert isinstance(piece, bytes), "a part ends the loop"
            yield piece

    def _add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value.strip()
        self._name = self._value = b""

    def _end_headers(self) -> None:
        self._n_parts += 1
        if self._n_parts > _MAX_PARTS:
            raise InvalidRequest(f"the form has more than {_MAX_PARTS} parts: send the file alone")
        headers, self._headers = self._headers, {}
        _, options = parse_options_header(headers.get(b"content-disposition"))
        filename = options.get(b"filename")
        encoding = headers.get(b"content-transfer-encoding", b"").lower()
        if filename is not None and encoding not in _IDENTITY:
            raise InvalidRequest("the form's file is encoded: send its bytes as they are")
        media_type, _ = parse_options_header(headers.get(b"content-type", b"text/plain"))
        name = options.get(b"name", b"").decode(errors="replace")
        shown = None if filename is None else filename.decode(errors="replace")
        self.queue.append(Part(name, shown, media_type.decode("latin-1"), self.data()))

    def _end(self) -> None:
        self._is_complete = True


def _boundary(content_type: bytes) -> bytes:
    if len(content_type) <= _MAX_TYPE_BYTES:
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        if boundary:
            return boundary
    raise _unreadable("its Content-Type names no boundary")


def _unreadable(why: object) -> InvalidRequest:
    return InvalidRequest(f"the form cannot be read: {why}")
