"""MIME sniffing: the media type of a file by its first bytes. Pure.

The type that a client declares may be wrong or a lie, so the bytes decide: a file that begins like
a page is a page.

Source:
    MIME Sniffing (WHATWG), sections 6 and 7; the formats' own specifications.
"""

from collections.abc import Sequence
from typing import Final

#: Number of first bytes that decide.
HEAD_BYTES: Final = 1024

_UNKNOWN: Final = "application/octet-stream"
_ARCHIVE: Final = "application/zip"
_PROGRAM: Final = "application/x-executable"
_PAGE: Final = "text/html"
_DRAWING: Final = "image/svg+xml"

#: How files begin.
_BEGINNINGS: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"BM", "image/bmp"),
    (b"\0\0\1\0", "image/x-icon"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"\xff\xf3", "audio/mpeg"),
    (b"\xff\xf2", "audio/mpeg"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
    (b"%PDF-", "application/pdf"),
    (b"PK\3\4", _ARCHIVE),
    (b"PK\5\6", _ARCHIVE),
    (b"\x1f\x8b", "application/gzip"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\7", "application/vnd.rar"),
    (b"\x7fELF", _PROGRAM),
    (b"MZ", _PROGRAM),
    (b"\xcf\xfa\xed\xfe", _PROGRAM),
    (b"\xce\xfa\xed\xfe", _PROGRAM),
    (b"\xca\xfe\xba\xbe", _PROGRAM),
    (b"#!", _PROGRAM),
)

#: Four bytes after `RIFF` and a length, or the brand after a length and `ftyp`.
_RIFF: Final = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}
_BRANDS: Final = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heif",
    b"qt  ": "video/quicktime",
    b"M4A ": "audio/mp4",
}

#: Beginnings of pages, after white space and in lower case.
_PAGES: Final = (
    *(b"<!doctype html", b"<html", b"<head", b"<script", b"<iframe", b"<body", b"<title"),
    *(b"<style", b"<table", b"<div", b"<font", b"<h1", b"<a ", b"<br", b"<p>", b"<p ", b"<b>"),
    *(b"<img", b"<link", b"<meta", b"<object", b"<embed", b"<form", b"<!--"),
)

#: Bytes that no text has.
_NOT_TEXT: Final = frozenset({*range(9), 11, *range(14, 27), *range(28, 32)})

_SPACE: Final = b" \t\r\n\f"
_BOMS: Final = (b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe")


def sniffed_type(head: bytes) -> str:
    """Return the media type of a file that begins so; `application/octet-stream` if unknown.

    A file that a browser might render as a page is `text/html`.

    Args:
        head: Its first bytes, `HEAD_BYTES` of them or all.
    """
    for beginning, media_type in _BEGINNINGS:
        if head.startswith(beginning) and not _is_mere_text(beginning, head):
            return media_type
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], _UNKNOWN)
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "video/mp4")
    if _NOT_TEXT.isdisjoint(head) or head.startswith(_BOMS):
        return _text_type(head)
    # A browser that looks for tags skips unknown bytes.
    return _PAGE if _text_type(head) == _PAGE else _UNKNOWN


def is_allowed(media_type: str, allowed: Sequence[str]) -> bool:
    """Whether a list such as `image/*, text/plain` names a type; `*/*` names every type.

    `image/*` is for pictures of pixels: `image/svg+xml`, which may hold scripts, is not among them.
    """
    family = media_type.partition("/")[0] + "/*" if media_type != _DRAWING else media_type
    return any(each in (media_type, family, "*/*") for each in allowed)


def _is_mere_text(beginning: bytes, head: bytes) -> bool:
    """Whether two letters that begin a format also begin a text, such as `BMX` or `MZ is...`."""
    return len(beginning) == 2 and beginning.isalpha() and _NOT_TEXT.isdisjoint(head)


def _text_type(head: bytes) -> str:
    for mark in _BOMS:
        head = head.removeprefix(mark)
    # Of text in two bytes a letter, those of the second are left.
    start = head.replace(b"\0", b"").lstrip(_SPACE).lower()
    if start.startswith(b"<?xml") or start.startswith(b"<svg") or b"<svg" in start[:512]:
        return _DRAWING if b"<svg" in start else "text/xml"
    if start.startswith(_PAGES) or (start.startswith(b"<") and b"<script" in start):
        return _PAGE
    if start.startswith((b"{", b"[")):
        return "application/json"
    return "text/plain"
