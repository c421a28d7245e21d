"""The web app, as it was built: read once, kept in memory, compressed when it is first asked for.

In an installed package it lies in `swell/web`, where the build hook put it; in a checkout in
`web/dist`, where `make web` does. Nothing is written, so a disk that is read-only will do.
"""

import gzip
import hashlib
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from swell.api.call import Call, Reply
from swell.api.headers import GUARDS, POLICY
from swell.api.settings import ApiSettings

_PACKAGE: Final = Path(__file__).resolve().parents[1]

_TYPES: Final = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".json": b"application/json",
    ".svg": b"image/svg+xml",
    ".webp": b"image/webp",
    ".png": b"image/png",
    ".woff2": b"font/woff2",
    ".webmanifest": b"application/manifest+json",
}

#: Types that gzip does not make smaller.
_DENSE: Final = frozenset({".webp", ".png", ".woff2"})

#: Names of files under `assets/` hold a hash of what is in them.
_FOR_EVER: Final = b"public, max-age=31536000, immutable"
_ASK_AGAIN: Final = b"no-cache"


def built_app() -> Path | None:
    """Return the folder of the built app; None where it was not built."""
    beside = _PACKAGE.parents[1] / "web" / "dist"
    found = (each for each in (_PACKAGE / "web", beside) if (each / "index.html").is_file())
    return next(found, None)


class WebApp:
    """The files of the app.

    Args:
        settings: Where the app lies, and from where its pictures come.
    """

    def __init__(self, settings: ApiSettings) -> None:
        folder = settings.web_app
        self._files = {} if folder is None else _read(folder)
        self._policy = (POLICY, _policy(settings))

    @property
    def is_built(self) -> bool:
        """Whether there is an app."""
        return "index.html" in self._files

    def file(self, call: Call, name: str) -> Reply | None:
        """Return a file of the app; None where there is none of this name."""
        found = self._files.get(name)
        return None if found is None else found.reply(call, self._policy)


class _File:
    """One file."""

    def __init__(self, path: Path, name: str) -> None:
        self._body = path.read_bytes()
        self._type = _TYPES[path.suffix]
        self._is_dense = path.suffix in _DENSE
        self._is_page = path.suffix == ".html"
        self._tag = f'"{hashlib.sha256(self._body).hexdigest()[:32]}"'.encode()
        self._cache = _FOR_EVER if name.startswith("assets/") else _ASK_AGAIN
        self._packed: bytes | None = None

    def reply(self, call: Call, policy: tuple[bytes, bytes]) -> Reply:
        """Return it, or that the browser's copy is still good."""
        headers = [(b"etag", self._tag), (b"cache-control", self._cache), policy]
        if not self._is_dense:
            headers.append((b"vary", b"Accept-Encoding"))
        if self._tag in (call.header(b"if-none-match") or b""):
            return _page_or_file(self._is_page, 304, b"", self._type, headers)
        body = self._body
        if not self._is_dense and b"gzip" in (call.header(b"accept-encoding") or b""):
            if self._packed is None:
                self._packed = gzip.compress(self._body, 9, mtime=0)
            body = self._packed
            headers.append((b"content-encoding", b"gzip"))
        return _page_or_file(self._is_page, 200, body, self._type, headers)


class _Page(Reply):
    """The app itself, which may ask for the camera: for a portrait, and when told to."""

    def all_headers(self, call: Call) -> list[tuple[bytes, bytes]]:
        """Return the headers, in which the guard of devices is another one."""
        found = super().all_headers(call)
        guard = (b"permissions-policy", GUARDS[-1][1].replace(b"camera=()", b"camera=(self)"))
        return [guard if name == b"permissions-policy" else (name, value) for name, value in found]


def _page_or_file(
    is_page: bool, status: int, body: bytes, kind: bytes, headers: list[tuple[bytes, bytes]]
) -> Reply:
    return (_Page if is_page else Reply)(status, body, kind, headers)


def _read(folder: Path) -> dict[str, _File]:
    """Return what is in the folder by its path; other kinds of files are no part of the app."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in _TYPES:
            name = path.relative_to(folder).as_posix()
            found[name] = _File(path, name)
    return found


def _policy(settings: ApiSettings) -> bytes:
    """Return what the app may load: its own files, and pictures from where the service has them."""
    elsewhere = []
    if settings.server.public_url is not None:
        parts = urlsplit(settings.server.public_url)
        elsewhere.append(f"{parts.scheme}://{parts.netloc}")
    # A redirect leads to a bucket, whose name depends on the provider.
    media = [*elsewhere, "https:"] if settings.objects.serve == "redirect" else elsewhere
    files = " ".join(["'self'", "data:", "blob:", *media])
    own = " ".join(["'self'", *media])
    return (
        f"default-src 'self'; img-src {files}; media-src {files}; connect-src {own}; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ).encode()
