"""The built web app: read once, kept in memory, compressed on the first request.

A package has it in `swell/web`, a checkout in `web/dist`. The server writes no files.
"""

import gzip
import hashlib
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from swell.server.dependencies import ApiSettings
from swell.server.headers import GUARDS, POLICY
from swell.server.request import Call, Reply

_PACKAGE: Final = Path(__file__).resolve().parents[2]

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

#: Types that are compressed already.
_COMPRESSED: Final = frozenset({".webp", ".png", ".woff2"})

#: The names of files in `assets/` contain a hash of their content.
_IMMUTABLE: Final = b"public, max-age=31536000, immutable"
_REVALIDATE: Final = b"no-cache"


def built_app() -> Path | None:
    """Return the folder of the built app; None if it was not built."""
    folders = (_PACKAGE / "web", _PACKAGE.parents[1] / "web" / "dist")
    return next((each for each in folders if (each / "index.html").is_file()), None)


class WebApp:
    """The files of the app.

    Args:
        settings: Folder of the app, and hosts of pictures.
    """

    def __init__(self, settings: ApiSettings) -> None:
        folder, policy = settings.web_app, _policy(settings)
        self._files: dict[str, _File] = {}
        if folder is not None:
            for path in folder.rglob("*"):
                if path.is_file() and path.suffix in _TYPES:
                    name = path.relative_to(folder).as_posix()
                    self._files[name] = _File(path, name, policy)

    def file(self, call: Call, name: str) -> Reply | None:
        """Return a file of the app; None if it does not exist."""
        found = self._files.get(name)
        return None if found is None else found.reply(call)


class _File:
    """One file."""

    def __init__(self, path: Path, name: str, policy: bytes) -> None:
        self._body = path.read_bytes()
        self._type = _TYPES[path.suffix]
        self._is_compressed = path.suffix in _COMPRESSED
        self._etag = f'"{hashlib.sha256(self._body).hexdigest()[:32]}"'.encode()
        cached = _IMMUTABLE if name.startswith("assets/") else _REVALIDATE
        self._headers = [(b"etag", self._etag), (b"cache-control", cached), (POLICY, policy)]
        if path.suffix == ".html":
            # The page may use the camera, for portraits.
            header, value = GUARDS[-1]
            self._headers.append((header, value.replace(b"camera=()", b"camera=(self)")))
        if not self._is_compressed:
            self._headers.append((b"vary", b"Accept-Encoding"))
        self._gzip: bytes | None = None

    def reply(self, call: Call) -> Reply:
        """Return the file, or 304 if the browser has it."""
        if self._etag in (call.headers.get(b"if-none-match") or b""):
            return Reply(304, b"", self._type, self._headers)
        body, headers = self._body, self._headers
        if not self._is_compressed and b"gzip" in (call.headers.get(b"accept-encoding") or b""):
            if self._gzip is None:
                self._gzip = gzip.compress(self._body, 9, mtime=0)
            body, headers = self._gzip, [*headers, (b"content-encoding", b"gzip")]
        return Reply(200, body, self._type, headers)


def _policy(settings: ApiSettings) -> bytes:
    """Return what the app may load: its own files, and pictures from the hosts of the service."""
    hosts = []
    if settings.server.public_url is not None:
        parts = urlsplit(settings.server.public_url)
        hosts.append(f"{parts.scheme}://{parts.netloc}")
    if settings.objects.serve == "redirect":
        # The host of the bucket depends on the provider.
        hosts.append("https:")
    media = " ".join(["'self'", "data:", "blob:", *hosts])
    connect = " ".join(["'self'", *hosts])
    return (
        f"default-src 'self'; img-src {media}; media-src {media}; connect-src {connect}; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ).encode()
