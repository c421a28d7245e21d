"""Weights fetched from folders, addresses and a hub, whole or not at all."""

import asyncio
import gzip
import hashlib
import json
import tomllib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from weights_harness import write

from hub_server import blob_of
from loopback import listening
from swell.core.clock import SystemClock
from swell.weights.cache import DigestMismatch, WeightCache
from swell.weights.download import Hub, Progress, PullFailed, pull
from swell.weights.safetensors_loader import load
from swell.weights.weight_errors import BrokenWeights, RefusedFormat
from swell.weights.weight_index import InvalidListing, parse_wanted

COMMIT = "5f3c" * 10


class NoWait(SystemClock):
    """Waits between tries pass at once."""

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(0)


class Site:
    """A server of files with ranges, breaks on demand, and the paths of a hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.asked: list[tuple[str, str | None]] = []
        self.tokens: list[tuple[str, str | None]] = []
        #: Break the connection after so many bytes of a body, one entry per answer.
        self.breaks: list[int] = []
        #: Answer with these statuses first.
        self.statuses: list[int] = []
        self.has_ranges = True
        #: Send no more of what is asked for with a range, as RFC 9110 15.3.7 lets a server do.
        self.most_of_range: int | None = None
        #: Send what begins so many bytes beside what was asked for, one entry per answer.
        self.beside: list[int] = []
        self.has_etag = True

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/files/{path:.+}", self.file)
        app.router.add_get("/acme/poster/resolve/{commit}/{path:.+}", self.resolve)
        app.router.add_get("/api/models/acme/poster/revision/{branch}", self.about)
        return app

    async def file(self, request: web.Request) -> web.StreamResponse:
        wanted = request.headers.get("Range")
        self.asked.append((request.match_info["path"], wanted))
        self.tokens.append((request.path, request.headers.get("Authorization")))
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        path = self.folder / request.match_info["path"]
        if not path.is_file():
            raise web.HTTPNotFound
        content = path.read_bytes()
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        start, end = 0, len(content)
        headers = {"ETag": etag} if self.has_etag else {}
        if wanted and self.has_ranges and request.headers.get("If-Range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                headers["Content-Range"] = f"bytes */{len(content)}"
                return web.Response(status=416, headers=headers)
            start += self.beside.pop(0) if self.beside else 0
            end = min(end, start + (self.most_of_range or end))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        response.content_length = end - start
        await response.prepare(request)
        limit = self.breaks.pop(0) if self.breaks else end - start
        await response.write(content[start : min(start + limit, end)])
        if start + limit < end:
            assert request.transport is not None
            request.transport.close()
        return response

    async def resolve(self, request: web.Request) -> web.Response:
        self.tokens.append((request.path, request.headers.get("Authorization")))
        assert request.match_info["commit"] == COMMIT
        # Another name of this machine: another origin, as a hub's store is.
        port = request.url.port
        raise web.HTTPFound(f"http://localhost:{port}/files/{request.match_info['path']}")

    async def about(self, request: web.Request) -> web.Response:
        if request.match_info["branch"] not in ("main", "v1", "refs/pr/1"):
            raise web.HTTPNotFound
        siblings: list[dict[str, Any]] = []
        for path in sorted(self.folder.rglob("*.*")):
            content = path.read_bytes()
            told: dict[str, Any] = {"rfilename": path.relative_to(self.folder).as_posix()}
            told |= {"size": len(content), "blobId": blob_of(content)}
            if path.suffix == ".safetensors":
                digest = hashlib.sha256(content).hexdigest()
                told["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(told)
        return web.json_response({"id": "acme/poster", "sha": COMMIT, "siblings": siblings})


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path / "site")
    made.folder.mkdir()
    async with listening(made.app()) as made.url:
        yield made


@pytest.fixture
def cache(tmp_path: Path) -> WeightCache:
    return WeightCache(tmp_path / "cache")


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def begin(cache: WeightCache, digest: str, content: bytes) -> None:
    """Leave what a pull that broke off would have left."""
    partial = cache.partials.open(digest)
    partial.write(content)
    partial.close()


async def fetch(reference: str | Path, cache: WeightCache, **more: Any) -> Any:
    return await pull(reference, cache, clock=NoWait(), **more)


# --- from this machine ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", [str, Path.as_uri])
async def test_a_file_of_this_machine_is_pulled(
    tmp_path: Path, cache: WeightCache, form: Callable[[Path], str]
) -> None:
    path = write(tmp_path / "a model.safetensors")
    listing = await fetch(form(path), cache)
    assert listing.files["a model.safetensors"].sha256 == digest_of(path)
    with cache.use(listing) as held:
        assert load(held.paths["a model.safetensors"])["b"].shape == (3, 5)
    assert cache.listings.get(listing.model, listing.version) == listing


@pytest.mark.parametrize("name", ["a.json", "in/a.safetensors"])
async def test_a_link_that_leads_out_of_a_folder_is_refused(
    tmp_path: Path, cache: WeightCache, name: str
) -> None:
    outside = tmp_path / f"outside{Path(name).suffix}"
    outside.write_text("{}")
    link = tmp_path / "poster" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(InvalidListing, match="leads out"):
        await fetch(tmp_path / "poster", cache)


async def test_links_within_a_folder_and_those_of_a_hubs_cache_are_followed(
    tmp_path: Path, cache: WeightCache
) -> None:
    blob = write(tmp_path / "blobs" / "0123")
    snapshot = tmp_path / "snapshots" / "abcd"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    (snapshot / "same.safetensors").symlink_to("model.safetensors")
    listing = await fetch(snapshot, cache)
    assert {entry.sha256 for entry in listing.files.values()} == {digest_of(blob)}


async def test_a_folder_is_pulled_without_its_pickles(tmp_path: Path, cache: WeightCache) -> None:
    folder = tmp_path / "poster"
    write(folder / "unet" / "model.safetensors")
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "model.bin").write_bytes(b"\x80\x04")
    (folder / "run.py").write_text("")
    listing = await fetch(folder, cache)
    assert sorted(listing.files) == ["model_index.json", "unet/model.safetensors"]
    assert listing.model == "local/poster"
    assert (await fetch(folder, cache)).version == listing.version


async def test_only_what_matches_is_pulled(tmp_path: Path, cache: WeightCache) -> None:
    folder = tmp_path / "poster"
    for name in ("unet/a.safetensors", "vae/b.safetensors"):
        write(folder / name)
    listing = await fetch(folder, cache, include=["unet/*"])
    assert list(listing.files) == ["unet/a.safetensors"]
    with pytest.raises(InvalidListing, match="no weights that match text"):
        await fetch(folder, cache, include=["text/*"])


async def test_a_pickle_is_refused_by_name(tmp_path: Path, cache: WeightCache) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"\x80\x04")
    with pytest.raises(RefusedFormat, match="save_file"):
        await fetch(path, cache)


async def test_what_is_not_there_is_told(tmp_path: Path, cache: WeightCache) -> None:
    with pytest.raises(InvalidListing, match="neither a file"):
        await fetch(tmp_path / "none.safetensors", cache)


# --- an author's listing -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["toml", "json"])
async def test_a_listing_brings_files_from_beside_it_and_from_the_web(
    tmp_path: Path, cache: WeightCache, site: Site, suffix: str
) -> None:
    near, far = write(tmp_path / "model" / "near.safetensors", 1), site.folder / "x.onnx"
    # A model without anything: ir_version is 7.
    far.write_bytes(b"\x08\x07")
    far_url, far_digest = f"{site.url}/files/x.onnx", digest_of(far)
    table = {
        "near.safetensors": f"sha256:{digest_of(near)}",
        "text/far.onnx": {"url": far_url, "sha256": far_digest},
    }
    path = tmp_path / "model" / f"weights.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps({"model": "acme/poster", "version": "v1", "weights": table}))
    else:
        path.write_text(
            'model = "acme/poster"\nversion = "v1"\n[weights]\n'
            f'"near.safetensors" = "{digest_of(near)}"\n'
            f'"text/far.onnx" = {{ url = "{far_url}", sha256 = "{far_digest}" }}\n'
        )
    listing = await fetch(path, cache)
    assert (listing.model, listing.version) == ("acme/poster", "v1")
    assert listing.files["text/far.onnx"].sha256 == digest_of(far)
    assert cache.missing(listing) == []


async def test_a_base_tells_where_files_are(tmp_path: Path, cache: WeightCache, site: Site) -> None:
    digest = digest_of(write(site.folder / "unet" / "model.safetensors"))
    path = tmp_path / "weights.toml"
    path.write_text(
        f'model = "acme/poster"\nversion = "v1"\nbase = "{site.url}/files/"\n'
        f'[weights]\n"unet/model.safetensors" = "{digest}"\n'
    )
    assert list((await fetch(path, cache)).files) == ["unet/model.safetensors"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model = 3", "weights"),
        ("[weights]\n'a.json' = '00'", "model"),
        ("model = 'a/b'\nversion = '../x'\n[weights]\n'a.json' = '00'", "version"),
        ("model = 'a/b'\nversion = 'v'\n[weights]\n'a.json' = '00'", "64 hexadecimal"),
        ("model = 'a/b'\nversion = 'v'\n[weights]\n'a.json' = {}", "sha256"),
        ("model = 'a/b'\nversion = 'v'\n[weights]\n'../a.json' = '00'", "relative path"),
        ("model = 'a/b'\nversion = 'v'\n[weights]\n'a.bin' = '00'", "pickle"),
        ("model = 'a/b'\nversion = 'v'\nurl = 'x'\n[weights]\n'a.json' = '00'", "not known"),
        ("model = [", "cannot be read"),
    ],
)
async def test_a_listing_that_is_wrong_says_what_to_change(
    tmp_path: Path, cache: WeightCache, text: str, told: str
) -> None:
    path = tmp_path / "weights.toml"
    path.write_text(text)
    with pytest.raises((InvalidListing, RefusedFormat), match=told):
        await fetch(path, cache)


def test_the_listing_in_the_documents_is_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "models" / "weights.md").read_text("utf-8")
    table = tomllib.loads(text.partition("```toml\n")[2].partition("```")[0])
    wanted = parse_wanted(table, beside=Path())
    assert len(wanted.files) == 3
    assert wanted.files["vae/model.safetensors"].source.endswith("@5f3c0a7/vae/model.safetensors")


# --- from the web --------------------------------------------------------------------------------


async def test_an_address_with_its_digest_is_pulled(cache: WeightCache, site: Site) -> None:
    digest = digest_of(write(site.folder / "m.safetensors"))
    listing = await fetch(f"{site.url}/files/m.safetensors#sha256={digest}", cache)
    assert listing.files["m.safetensors"].sha256 == digest


async def test_what_is_cached_is_not_asked_for_again(cache: WeightCache, site: Site) -> None:
    digest = digest_of(write(site.folder / "m.safetensors"))
    reference = f"{site.url}/files/m.safetensors#sha256={digest}"
    assert await fetch(reference, cache) == await fetch(reference, cache)
    assert len(site.asked) == 1


async def test_another_content_than_asked_for_does_not_enter(
    cache: WeightCache, site: Site
) -> None:
    write(site.folder / "m.safetensors")
    with pytest.raises(DigestMismatch, match="was changed"):
        await fetch(f"{site.url}/files/m.safetensors#sha256={'0' * 64}", cache)
    assert cache.size_bytes() == 0


async def test_a_page_instead_of_weights_is_refused(cache: WeightCache, site: Site) -> None:
    (site.folder / "m.safetensors").write_text("<html>Please log in</html>")
    with pytest.raises(BrokenWeights, match="no safetensors file"):
        await fetch(f"{site.url}/files/m.safetensors", cache)


@pytest.mark.slow
async def test_a_broken_connection_goes_on_where_it_stopped(cache: WeightCache, site: Site) -> None:
    digest = digest_of(write(site.folder / "m.safetensors", size=3_000_000))
    site.breaks = [4_000_000, 4_000_000]
    listing = await fetch(f"{site.url}/files/m.safetensors#sha256={digest}", cache)
    assert listing.files["m.safetensors"].sha256 == digest
    starts = [int((wanted or "bytes=0-")[6:-1]) for _, wanted in site.asked]
    assert starts[0] == 0
    assert 0 < starts[1] < starts[2]


@pytest.mark.slow
async def test_a_pull_that_was_given_up_goes_on_at_the_next(cache: WeightCache, site: Site) -> None:
    digest = digest_of(write(site.folder / "m.safetensors", size=2_000_000))
    reference = f"{site.url}/files/m.safetensors#sha256={digest}"
    site.breaks = [4_000_000, 0, 0, 0, 0]
    with pytest.raises(PullFailed, match="received bytes are kept"):
        await fetch(reference, cache)
    came = (cache.folder / "partial" / f"{digest}.part").stat().st_size
    assert came > 0
    site.asked.clear()
    await fetch(reference, cache)
    assert site.asked == [("m.safetensors", f"bytes={came}-")]


async def test_a_file_that_changed_meanwhile_starts_anew(cache: WeightCache, site: Site) -> None:
    digest = digest_of(write(site.folder / "m.safetensors", seed=2, size=5_000))
    begin(cache, digest, b"the beginning of another file")
    (cache.folder / "partial" / f"{digest}.etag").write_text('"old"')
    listing = await fetch(f"{site.url}/files/m.safetensors#sha256={digest}", cache)
    assert listing.files["m.safetensors"].sha256 == digest
    assert site.asked == [("m.safetensors", "bytes=29-")]


async def test_a_file_that_came_whole_before_is_not_fetched_again(
    cache: WeightCache, site: Site
) -> None:
    path = write(site.folder / "m.safetensors")
    digest, content = digest_of(path), path.read_bytes()
    begin(cache, digest, content)
    etag = cache.folder / "partial" / f"{digest}.etag"
    etag.write_text(f'"{hashlib.md5(content).hexdigest()}"')
    await fetch(f"{site.url}/files/m.safetensors#sha256={digest}", cache)
    assert not site.asked
    assert not etag.exists()


@pytest.mark.parametrize("missing", ["has_ranges", "has_etag"])
async def test_a_server_without_ranges_is_asked_from_the_beginning(
    cache: WeightCache, site: Site, missing: str
) -> None:
    setattr(site, missing, False)
    digest = digest_of(write(site.folder / "m.safetensors", size=50_000))
    site.breaks = [60_000]
    listing = await fetch(f"{site.url}/files/m.safetensors#sha256={digest}", cache)
    assert listing.files["m.safetensors"].sha256 == digest


async def test_a_server_that_sends_less_than_was_asked_for_is_asked_for_the_rest(
    cache: WeightCache, site: Site
) -> None:
    (site.folder / "vocab.txt").write_bytes(b"a line of words\n" * 100_000)
    site.breaks, site.most_of_range = [700_000], 400_000
    listing = await fetch(f"{site.url}/files/vocab.txt", cache)
    assert listing.files["vocab.txt"].size_bytes == 1_600_000
    assert len(site.asked) >= 3
    assert listing.files["vocab.txt"].sha256 == digest_of(site.folder / "vocab.txt")


async def test_another_part_than_was_asked_for_is_not_taken(cache: WeightCache, site: Site) -> None:
    digest = digest_of(write(site.folder / "m.safetensors", size=3_000_000))
    site.breaks, site.beside = [1_000_000], [7]
    listing = await fetch(f"{site.url}/files/m.safetensors#sha256={digest}", cache)
    assert listing.files["m.safetensors"].sha256 == digest


async def test_a_file_that_comes_packed_unasked_is_refused(cache: WeightCache, site: Site) -> None:
    async def packed(request: web.Request) -> web.Response:
        headers = {"Content-Encoding": "gzip"}
        return web.Response(body=gzip.compress(b"a line of words"), headers=headers)

    app = web.Application()
    app.router.add_get("/vocab.txt", packed)
    async with listening(app) as url:
        with pytest.raises(PullFailed, match="sends it packed"):
            await fetch(f"{url}/vocab.txt", cache)


async def test_more_than_was_announced_is_not_taken(cache: WeightCache, tmp_path: Path) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(bytes(1 << 20))
        return response

    app = web.Application()
    app.router.add_get("/vocab.txt", endless)
    async with listening(app) as url:
        path = tmp_path / "weights.json"
        entry = {"url": f"{url}/vocab.txt", "sha256": "0" * 64, "bytes": 1000}
        table = {"model": "acme/poster", "version": "v1", "weights": {"vocab.txt": entry}}
        path.write_text(json.dumps(table))
        with pytest.raises(PullFailed, match="more than the 1,000 bytes"):
            await fetch(path, cache)
    assert cache.size_bytes() == 0


async def test_a_server_that_is_busy_is_asked_again(cache: WeightCache, site: Site) -> None:
    write(site.folder / "m.safetensors")
    site.statuses = [503, 429, 500]
    await fetch(f"{site.url}/files/m.safetensors", cache)
    assert len(site.asked) == 4


async def test_a_server_that_stays_broken_is_given_up(cache: WeightCache, site: Site) -> None:
    write(site.folder / "m.safetensors")
    site.statuses = [503] * 9
    with pytest.raises(PullFailed, match=r"answered 503 .5 tries"):
        await fetch(f"{site.url}/files/m.safetensors", cache)
    assert len(site.asked) == 5


@pytest.mark.parametrize(("status", "told"), [(401, "token"), (403, "licence"), (404, "no such")])
async def test_a_refusal_says_what_to_do(
    cache: WeightCache, site: Site, status: int, told: str
) -> None:
    site.statuses = [status]
    with pytest.raises(PullFailed, match=told):
        await fetch(f"{site.url}/files/m.safetensors", cache)
    assert len(site.asked) == 1


async def test_plain_http_to_another_machine_is_refused(cache: WeightCache) -> None:
    with pytest.raises(InvalidListing, match="https"):
        await fetch("http://example.org/m.safetensors", cache)


async def test_a_host_that_nobody_answers_at_is_told(cache: WeightCache, site: Site) -> None:
    with pytest.raises(PullFailed, match="5 tries"):
        await fetch("http://127.0.0.1:1/m.safetensors", cache)


@pytest.mark.parametrize("fragment", ["md5=00", "sha256=00"])
async def test_a_digest_that_is_none_is_refused(cache: WeightCache, fragment: str) -> None:
    with pytest.raises(InvalidListing):
        await fetch(f"https://example.org/m.safetensors#{fragment}", cache)


async def test_progress_ends_with_all_bytes_and_all_files(cache: WeightCache, site: Site) -> None:
    sizes = [write(site.folder / f"{n}.safetensors", n, 9_000).stat().st_size for n in range(3)]
    seen: list[Progress] = []
    hub = Hub(site.url)
    await fetch("hf://acme/poster", cache, hub=hub, progress=seen.append)
    assert [p.done_bytes for p in seen] == sorted(p.done_bytes for p in seen)
    last = seen[-1]
    assert (last.done_bytes, last.total_bytes) == (sum(sizes), sum(sizes))
    assert (last.files_done, last.files) == (3, 3)


async def test_two_pulls_of_one_file_fetch_it_once(cache: WeightCache, site: Site) -> None:
    digest = digest_of(write(site.folder / "m.safetensors", size=50_000))
    reference = f"{site.url}/files/m.safetensors#sha256={digest}"
    first, second = await asyncio.gather(fetch(reference, cache), fetch(reference, cache))
    assert first == second
    assert len(site.asked) == 1


async def test_room_for_one_file_is_not_taken_from_another_of_the_same_pull(
    cache: WeightCache, site: Site, tmp_path: Path
) -> None:
    sizes = [write(site.folder / f"{n}.safetensors", n).stat().st_size for n in range(3)]
    cache.add(write(tmp_path / "old.safetensors", 9), "old.safetensors")
    cache.budget_bytes = sum(sizes)
    listing = await fetch("hf://acme/poster", cache, hub=Hub(site.url))
    assert cache.missing(listing) == []
    assert cache.size_bytes() == sum(sizes)


@pytest.mark.slow
async def test_what_came_of_a_pull_is_not_removed_to_make_room_for_its_rest(
    cache: WeightCache, site: Site, tmp_path: Path
) -> None:
    sizes = [write(site.folder / f"{n}.safetensors", n, 1_500_000).stat().st_size for n in range(2)]
    site.breaks = [4_000_000, 4_000_000, *[0] * 8]
    with pytest.raises(PullFailed, match="received bytes are kept"):
        await fetch("hf://acme/poster", cache, hub=Hub(site.url))
    came = {path.stat().st_size for path in (cache.folder / "partial").glob("*.part")}
    assert max(came) > 0
    # Used later than anything of that.
    cache.add(write(tmp_path / "other.safetensors", 9), "other.safetensors")
    cache.budget_bytes = sum(sizes)
    site.asked.clear()
    site.breaks.clear()
    listing = await fetch("hf://acme/poster", cache, hub=Hub(site.url))
    assert cache.missing(listing) == []
    assert {int((wanted or "bytes=0-")[6:-1]) for _, wanted in site.asked} == came


# --- from a hub ----------------------------------------------------------------------------------


@pytest.mark.parametrize("branch", ["", "@main", "@v1", "@refs%2Fpr%2F1"])
async def test_a_repository_is_pulled_at_its_commit(
    cache: WeightCache, site: Site, branch: str
) -> None:
    unet = write(site.folder / "unet" / "model.safetensors", 1)
    write(site.folder / "vae.safetensors", 2)
    (site.folder / "config.json").write_text("{}")
    (site.folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    listing = await fetch(f"hf://acme/poster{branch}", cache, hub=Hub(site.url))
    assert (listing.model, listing.version) == ("acme/poster", COMMIT)
    assert sorted(listing.files) == ["config.json", "unet/model.safetensors", "vae.safetensors"]
    assert listing.files["unet/model.safetensors"].sha256 == digest_of(unet)


async def test_one_file_of_a_repository_is_pulled(cache: WeightCache, site: Site) -> None:
    write(site.folder / "unet" / "model.safetensors")
    write(site.folder / "vae.safetensors")
    reference = "hf://acme/poster@main/unet/model.safetensors"
    listing = await fetch(reference, cache, hub=Hub(site.url))
    assert list(listing.files) == ["unet/model.safetensors"]


async def test_a_repository_whose_content_is_not_what_it_lists_is_refused(
    cache: WeightCache, site: Site
) -> None:
    path = write(site.folder / "m.safetensors", 1)
    really_about = site.about

    async def changed_after(request: web.Request) -> web.Response:
        answer = await really_about(request)
        write(path, 2)
        return answer

    site.about = changed_after  # type: ignore[method-assign]
    async with listening(site.app()) as url:
        with pytest.raises(DigestMismatch):
            await fetch("hf://acme/poster", cache, hub=Hub(url))


async def test_a_pickle_of_a_repository_is_refused_by_name(cache: WeightCache, site: Site) -> None:
    (site.folder / "model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(RefusedFormat, match="pickle"):
        await fetch("hf://acme/poster@main/model.bin", cache, hub=Hub(site.url))


async def test_a_token_goes_to_the_hub_and_not_where_it_redirects(
    cache: WeightCache, site: Site
) -> None:
    write(site.folder / "m.safetensors")
    await fetch("hf://acme/poster", cache, hub=Hub(site.url, token="secret"))
    assert ("/acme/poster/resolve/" + COMMIT + "/m.safetensors", "Bearer secret") in site.tokens
    assert ("/files/m.safetensors", None) in site.tokens
    assert "secret" not in repr(Hub(site.url, token="secret"))


async def test_a_repository_or_branch_that_is_not_there_is_told(
    cache: WeightCache, site: Site
) -> None:
    for reference in ("hf://acme/other", "hf://acme/poster@none"):
        with pytest.raises(PullFailed, match="no such file, branch or commit"):
            await fetch(reference, cache, hub=Hub(site.url))
    write(site.folder / "m.safetensors")
    with pytest.raises(PullFailed, match="has no file"):
        await fetch("hf://acme/poster@main/n.safetensors", cache, hub=Hub(site.url))


@pytest.mark.parametrize("reference", ["hf://", "hf://acme", "hf://acme/a b", "hf://a/b@"])
async def test_a_reference_that_is_not_one_is_told(cache: WeightCache, reference: str) -> None:
    with pytest.raises(InvalidListing, match="hf://owner/name"):
        await fetch(reference, cache)


def test_aiohttp_is_what_drops_tokens_on_the_way() -> None:
    """The redirect test above rests on it; older versions kept them."""
    assert tuple(int(part) for part in aiohttp.__version__.split(".")[:2]) >= (3, 12)
