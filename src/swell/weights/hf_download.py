"""Files of Hugging Face repositories, through the hub's own client.

huggingface_hub lists a repository and gives the URL of a file's bytes; hf_xet streams files from
Xet storage. `swell.weights.download` retries, resumes and checks digests.
"""

import contextlib
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import httpx2
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from swell.weights.cache import PullFailed
from swell.weights.formats import check_name, is_allowed
from swell.weights.weight_index import InvalidListing, Wanted, WantedFile, check_digest

try:
    import hf_xet
except ModuleNotFoundError:  # no wheel for this processor: Xet files come by plain HTTP
    hf_xet = None

#: Timeout of a request to the hub, in seconds.
TIMEOUT_S: Final = 30.0

_REFERENCE: Final = re.compile(
    r"hf:(?://)?(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<branch>[^/@]+))?(?:/(?P<path>.+))?"
)

_TOKEN: Final = "(HF_TOKEN, or worker.hub_token)"

#: What to do about an error of the hub, by its class in huggingface_hub, or by its status.
_ADVICE: Final[Mapping[str | int, str]] = {
    "RepositoryNotFoundError": "there is no such repository, or it is private and needs a token "
    f"that may read it {_TOKEN}",
    "RevisionNotFoundError": "there is no such branch, tag or commit",
    "RemoteEntryNotFoundError": "there is no such file at this commit",
    "GatedRepoError": "accept its licence at the hub with your account, and give that account's "
    f"token {_TOKEN}",
    401: f"a token is needed, or this one is not accepted {_TOKEN}",
    403: "this token may not read it; accept the model's licence at the hub if it asks",
    404: "there is no such file, branch or commit",
}


@dataclass(frozen=True, slots=True)
class Location:
    """Where the bytes of a file are.

    Args:
        url: For a GET with ranges.
        headers: For that GET, or for Xet tokens; the hub's token only where they are the hub's.
        size_bytes: Its size; None if the hub does not tell.
        xet_hash: Its name in Xet storage; empty for a file that comes by plain HTTP.
        xet_token_url: Where hf_xet gets its own tokens.
    """

    url: str
    headers: dict[str, str]
    size_bytes: int | None
    xet_hash: str = ""
    xet_token_url: str = ""


class HubClient:
    """A hub that speaks the API of the Hugging Face Hub. Its methods block.

    Args:
        endpoint: Its address.
        token: For private and gated repositories.
    """

    def __init__(self, endpoint: str, token: str | None) -> None:
        self._endpoint = endpoint
        # `False` keeps the client from sending a token that it finds on this machine.
        self._token = token or False

    def files(self, reference: str) -> Wanted:
        """Return the commit of a revision, and its files that may be downloaded.

        Raises:
            InvalidListing: The reference cannot be one.
            PullFailed: There is no such repository, revision or file, or the token may not read it.
            ConnectionError: The hub cannot be reached, or is busy.
        """
        repository, branch, path = _parts(reference)
        api = HfApi(endpoint=self._endpoint, token=self._token)
        with self._explained(reference):
            info = api.model_info(
                repository, revision=branch, files_metadata=True, timeout=TIMEOUT_S
            )
        commit = info.sha or ""
        if not re.fullmatch(r"[0-9a-f]{7,64}", commit):
            raise PullFailed(f"{self._endpoint} gave no commit of {reference}")
        files = {}
        for each in info.siblings or []:
            name, lfs = each.rfilename, each.lfs
            if is_allowed(name) and path in ("", name):
                files[check_name(name)] = WantedFile(
                    f"hf://{repository}@{commit}/{name}",
                    check_digest(lfs.sha256, name) if lfs else None,
                    each.size,
                    None if lfs else each.blob_id,
                )
        if path and path not in files:
            check_name(path)
            raise PullFailed(f"{repository} has no file {path} at {branch}")
        return Wanted(repository, commit, files)

    def locate(self, source: str) -> Location:
        """Return where to read a file of a `hf:` reference; a signed URL is valid for minutes.

        Raises:
            InvalidListing, PullFailed, ConnectionError: As `files`.
        """
        repository, branch, path = _parts(source)
        url = hf_hub_url(repository, path, revision=branch, endpoint=self._endpoint)
        with self._explained(path):
            found = get_hf_file_metadata(
                url, token=self._token, timeout=TIMEOUT_S, endpoint=self._endpoint
            )
        xet, has_xet = found.xet_file_data, hf_xet and not constants.HF_HUB_DISABLE_XET
        if xet is not None and has_xet and found.size is not None:
            headers = self._headers(xet.refresh_route)
            return Location(url, headers, found.size, xet.file_hash, xet.refresh_route)
        return Location(found.location, self._headers(found.location), found.size)

    def _headers(self, url: str) -> dict[str, str]:
        """Return the token for a URL of the hub itself; nothing for any other."""
        is_hub = url.startswith(f"{self._endpoint}/")
        return {"Authorization": f"Bearer {self._token}"} if self._token and is_hub else {}

    def open_xet(self, location: Location) -> Any:
        """Return a connection to Xet storage; its `abort` ends the streams.

        Raises:
            ConnectionError: The storage cannot be reached.
        """
        with _xet_errors():
            return self._xet.new_download_stream_group(
                token_refresh_url=location.xet_token_url, token_refresh_headers=location.headers
            )

    def read_xet(
        self, connection: Any, location: Location, start: int, write: Callable[[bytes], None]
    ) -> None:
        """Write a file from Xet storage, from a byte on; less where it breaks off or is aborted.

        Raises:
            ConnectionError: The storage cannot be reached.
        """
        info = hf_xet.XetFileInfo(location.xet_hash, location.size_bytes)
        with _xet_errors(), connection:
            for block in connection.download_stream(info, start=start):
                write(block)

    @cached_property
    def _xet(self) -> Any:
        return hf_xet.XetSession()

    @contextlib.contextmanager
    def _explained(self, asked: str) -> Iterator[None]:
        try:
            yield
        except OfflineModeIsEnabled as error:
            raise PullFailed(
                f"{asked}: HF_HUB_OFFLINE is set, so the hub is not asked: unset it, or use a "
                "weights.toml with files of the cache"
            ) from error
        except HfHubHTTPError as error:
            raise _refusal(asked, error) from error
        except httpx2.RequestError as error:
            raise ConnectionError(str(error) or type(error).__name__) from error
        except ValueError as error:
            raise PullFailed(
                f"{asked}: {self._endpoint} does not answer like a hub ({error}): check the name, "
                "and worker.hub_url (HF_ENDPOINT)"
            ) from error


@contextlib.contextmanager
def _xet_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        text = f"{error}; HF_HUB_DISABLE_XET=1 downloads by plain HTTP"
        raise ConnectionError(text) from error


def _parts(reference: str) -> tuple[str, str, str]:
    """Return the repository, branch and path of `hf:owner/name@branch/path`."""
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise InvalidListing(f"{reference}: give hf://owner/name@branch, then /path if needed")
    branch = urllib.parse.unquote(found["branch"] or "main")
    return found["repository"], branch, found["path"] or ""


def _refusal(asked: str, error: HfHubHTTPError) -> Exception:
    status, host = error.response.status_code, error.response.url.host
    if status >= 500 or status in (408, 429):
        return ConnectionError(f"{host} answered {status}")
    message = error.response.headers.get("X-Error-Message", "")
    words = " ".join("".join(c if c.isprintable() else " " for c in message).split())[:200]
    said = f" ({words.rstrip('.')})" if words else ""
    advice = _ADVICE.get(type(error).__name__) or _ADVICE.get(status, "not expected")
    return PullFailed(f"{asked}: {host} answered {status}{said}: {advice}")
