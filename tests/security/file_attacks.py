"""Keys, names and signed URLs that lead to files of others, or out of the folder."""

from collections.abc import Iterator
from functools import partial
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from attacks import Attack
from target import Target

ANOTHER = "a file comes back, or one is stored"

#: What may stand where a key or a name does.
LEADS_OUT = (
    "../../../../etc/passwd",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "%252e%252e/%252e%252e/etc/passwd",
    "..%252f..%252fetc%252fpasswd",
    "....//....//etc/passwd",
    "..\\..\\etc\\passwd",
    "..%5c..%5cetc%5cpasswd",
    "/etc/passwd",
    "//etc/passwd",
    "%2fetc%2fpasswd",
    "uploads/../../swell.db",
    "uploads//../../swell.db",
    "./swell.db",
    ".incoming/a",
    "uploads/.hidden",
    "swell.db%00.png",
    "%00",
    "a%0ab",
    "a%0d%0aset-cookie:%20a=b",
    "..%c0%af..%c0%afetc/passwd",
    "%uff0e%uff0e/etc/passwd",
    "%ef%bc%8e%ef%bc%8e/etc/passwd",
    "..;/..;/etc/passwd",
    "~root/.bashrc",
    "file:%2f%2f%2fetc%2fpasswd",
    "a" * 6000,
    "%e2%80%ae",
    "%ff%fe",
    "CON",
    "a:b:c",
    "outputs/%2a",
    "proc/self/environ",
)


def file_attacks() -> Iterator[Attack]:
    """Yield them."""
    for number, key in enumerate(LEADS_OUT):
        name = f"{number} {key[:40]}"
        yield Attack("paths", f"GET artifact {name}", ANOTHER, partial(_get, key=key))
        yield Attack("paths", f"PUT artifact {name}", ANOTHER, partial(_put, key=key))
        yield Attack("paths", f"signed elsewhere {name}", ANOTHER, partial(_moved, key=key))
        yield Attack("paths", f"a model called {name}", ANOTHER, partial(_model, name=key))
        yield Attack(
            "paths", f"a file called {name}", "its name is in its key", partial(_named, name=key)
        )
    for name in SIGNATURES:
        yield Attack("signatures", name, ANOTHER, partial(_altered, how=name))
    yield Attack("signatures", "every byte of the query, one by one", ANOTHER, _each_byte)
    yield Attack("signatures", "an upload's URL used for PUT", ANOTHER, _wrong_method)
    yield Attack("signatures", "a DELETE of a signed URL", ANOTHER, _delete)
    yield Attack("signatures", "another's file beside one's own", ANOTHER, _neighbour)
    page = "a browser would run it in the service's place"
    for kind in (
        "text/html",
        "image/svg+xml",
        "application/xhtml+xml",
        "text/xml",
        "text/javascript",
    ):
        yield Attack("files", f"an upload of {kind}", page, partial(_page, kind=kind))
    for kind in (
        "a/b\r\nset-cookie: a=b",
        "text/html;charset=utf-7",
        "x" * 500,
        "image/png\0",
        "/",
        "*/*",
    ):
        run = partial(_kind, kind=kind)
        yield Attack("files", f"a media type {kind[:30]!r}", "it comes back as it was sent", run)
    for name, form in forms().items():
        yield Attack(
            "files",
            f"a form: {name}",
            "it is taken, or it breaks the service",
            partial(_form, form=form),
        )
    for span in RANGES:
        yield Attack(
            "files",
            f"a range {span[:40]!r}",
            "more comes back than the file",
            partial(_range, span=span),
        )


def _get(target: Target, key: str) -> str:
    query = "method=GET&expires=99999999999&signature=" + "A" * 43
    for path in (f"/v1/artifacts/{key}", f"/v1/artifacts/{key}?{query}"):
        answer = target.call("GET", path)
        if answer.is_taken or b"root:x:" in answer.body or b"SQLite" in answer.body:
            return f"{answer.status} {answer.body[:200]!r}"
    return _headers_split(answer.headers)


def _put(target: Target, key: str) -> str:
    query = "method=PUT&expires=99999999999&signature=" + "A" * 43
    answer = target.call("PUT", f"/v1/artifacts/{key}?{query}", b"evil")
    return f"{answer.status} {answer.body[:200]!r}" if answer.is_taken else ""


def _moved(target: Target, key: str) -> str:
    """Take the signature of one's own file to another key."""
    query = urlsplit(target.upload(b"mine")).query
    answer = target.call("GET", f"/v1/artifacts/{key}?{query}")
    return f"{answer.status} {answer.body[:200]!r}" if answer.is_taken else ""


def _model(target: Target, name: str) -> str:
    for path in (f"/v1/models/{name}", f"/v1/models/a/{name}", f"/models/a/{name}"):
        answer = target.call("GET", path, key="ada")
        if answer.is_taken or b"root:x:" in answer.body:
            return f"{answer.status} {answer.body[:200]!r}"
    answer = target.call("POST", "/v1/tasks", {"model": name, "input": {}}, key="ada")
    return f"{answer.status}" if answer.is_taken else _headers_split(answer.headers)


def _named(target: Target, name: str) -> str:
    """A name leaves nothing in the key but an ending of letters and digits."""
    form = (
        f'--b\r\ncontent-disposition: form-data; name="f"; filename="{name}"\r\n\r\n'
        "abc\r\n--b--\r\n"
    ).encode("utf-8", "replace")
    kind = {"content-type": "multipart/form-data; boundary=b"}
    for answer in (
        target.call("POST", f"/v1/uploads?filename={name}", b"abc", key="ada"),
        target.call("POST", "/v1/uploads", form, key="ada", headers=kind),
    ):
        key = str(answer.json().get("key", "uploads/a/b"))
        parts = key.split("/")
        if len(parts) != 3 or parts[0] != "uploads" or not parts[2].replace(".", "").isalnum():
            return key
    return ""


def _headers_split(headers: object) -> str:
    return "a header was put in" if "set-cookie" in str(headers).lower() else ""


# --- signatures ----------------------------------------------------------------------------------

SIGNATURES = (
    "no query",
    "no signature",
    "an empty signature",
    "no expiry",
    "an expiry further on",
    "an expiry of 0",
    "an expiry that is no number",
    "an expiry with zeros before it",
    "an expiry as 1e12",
    "an expiry in other digits",
    "method PUT",
    "method HEAD",
    "method in small letters",
    "no method and PUT",
    "signature in small letters",
    "signature with padding",
    "signature cut short",
    "signature twice",
    "expiry twice",
    "key twice",
    "signature in other letters",
    "signature of null bytes",
    "another key's ending",
    "a line end in the key",
    "a longer key",
    "a key in other letters",
    "a folder for a file",
    "a signature of nothing",
)


def _altered(target: Target, how: str) -> str:
    url = urlsplit(target.upload(b"mine", "a.txt"))
    query = dict(parse_qsl(url.query))
    path, text, method = _alter(how, url.path, query)
    answer = target.call(method, f"{path}?{text}", None if method == "GET" else b"evil")
    if how == "key twice" and answer.body == b"mine":
        return ""  # what is not known is ignored, and the path alone says which file
    return f"{answer.status} {answer.body[:200]!r}" if answer.is_taken else ""


def _alter(how: str, path: str, query: dict[str, str]) -> tuple[str, str, str]:
    signature, expires = query["signature"], query["expires"]
    changes: dict[str, dict[str, str | None]] = {
        "no signature": {"signature": None},
        "an empty signature": {"signature": ""},
        "no expiry": {"expires": None},
        "an expiry further on": {"expires": str(int(expires) + 3600)},
        "an expiry of 0": {"expires": "0"},
        "an expiry that is no number": {"expires": "never"},
        "an expiry with zeros before it": {"expires": f"0{expires}"},
        "an expiry as 1e12": {"expires": "1e12"},
        "an expiry in other digits": {
            "expires": expires.translate({48 + n: 0x660 + n for n in range(10)})
        },
        "method PUT": {"method": "PUT"},
        "method HEAD": {"method": "HEAD"},
        "method in small letters": {"method": "put"},
        "signature in small letters": {"signature": signature.lower()},
        "signature with padding": {"signature": signature + "="},
        "signature cut short": {"signature": signature[:-1]},
        "signature in other letters": {"signature": signature[:-1] + "\u017f"},
        "signature of null bytes": {"signature": "\0" * 43},
        "a signature of nothing": {"signature": "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"},
    }
    changed = {**query, **changes.get(how, {})}
    text = urlencode({name: value for name, value in changed.items() if value is not None})
    stem, _, name = path.rpartition("/")
    paths = {
        "another key's ending": path.replace(".txt", ".png"),
        "a line end in the key": f"{path}%0a{expires}",
        "a longer key": f"{path}/b",
        "a key in other letters": f"{stem}/{name.upper()}",
        "a folder for a file": stem,
    }
    texts = {
        "no query": "",
        "signature twice": f"{text}&signature={'A' * 43}",
        "expiry twice": f"{text}&expires=99999999999",
        "key twice": f"{text}&key={quote('uploads/a')}",
        "no method and PUT": urlencode({k: v for k, v in query.items() if k != "method"}),
    }
    method = (
        "PUT" if how in ("method PUT", "method in small letters", "no method and PUT") else "GET"
    )
    return paths.get(how, path), texts.get(how, text), method


def _each_byte(target: Target) -> str:
    """Change each byte of what stands behind the `?`, one after another.

    What is left whole of a query is enough: the signature holds the method as well.
    """
    url = urlsplit(target.upload(b"mine"))
    if not target.call("GET", f"{url.path}?{url.query}").is_taken:
        raise RuntimeError("the URL itself does not work, so that nothing is proven")
    for at, letter in enumerate(url.query):
        other = "A" if letter != "A" else "B"
        query = url.query[:at] + other + url.query[at + 1 :]
        answer = target.call("GET", f"{url.path}?{query}")
        if answer.is_taken and url.query.partition("&")[2] not in query:
            return f"byte {at} of {url.query}"
    return ""


def _wrong_method(target: Target) -> str:
    url = urlsplit(target.upload(b"mine"))
    answer = target.call("PUT", f"{url.path}?{url.query}", b"evil")
    kept = target.call("GET", f"{url.path}?{url.query}").body
    return f"{answer.status}" if answer.is_taken or kept != b"mine" else ""


def _delete(target: Target) -> str:
    url = urlsplit(target.upload(b"mine"))
    target.call("DELETE", f"{url.path}?{url.query}")
    kept = target.call("GET", f"{url.path}?{url.query}").body
    return "it is gone" if kept != b"mine" else ""


def _neighbour(target: Target) -> str:
    his = urlsplit(target.upload(b"his", key="bob"))
    mine = urlsplit(target.upload(b"mine"))
    for method, path in (("GET", his.path), ("HEAD", his.path), ("PUT", his.path)):
        answer = target.call(method, f"{path}?{mine.query}", None if method != "PUT" else b"evil")
        if answer.is_taken:
            return f"{method} {answer.status} {answer.body[:100]!r}"
    return ""


# --- what comes back -----------------------------------------------------------------------------


def _page(target: Target, kind: str) -> str:
    """Whoever opens the URL must get a download, or a page in which nothing runs."""
    body = b"<html><script>alert(document.domain)</script></html>"
    answer = target.call("POST", "/v1/uploads", body, key="ada", headers={"content-type": kind})
    if not answer.is_taken:
        return ""
    url = urlsplit(answer.json()["url"])
    got = target.call("GET", f"{url.path}?{url.query}").headers
    is_safe = "sandbox" in got.get("content-security-policy", "")
    is_safe &= got.get("x-content-type-options") == "nosniff"
    is_shown = "attachment" not in got.get("content-disposition", "")
    if not is_safe or (is_shown and got["content-type"].startswith(("text/html", "image/svg"))):
        return str(dict(got))[:300]
    return ""


def _kind(target: Target, kind: str) -> str:
    answer = target.call("POST", "/v1/uploads", b"abc", key="ada", headers={"content-type": kind})
    if not answer.is_taken:
        return _headers_split(answer.headers)
    url = urlsplit(answer.json()["url"])
    got = target.call("GET", f"{url.path}?{url.query}")
    if "set-cookie" in got.headers or got.headers.get("content-type") == kind:
        return str(dict(got.headers))[:300]
    return ""


def forms() -> dict[str, bytes]:
    """Return forms that are broken or too much."""
    part = b'--b\r\ncontent-disposition: form-data; name="f"; filename="a"\r\n\r\nabc\r\n'
    many = b'--b\r\ncontent-disposition: form-data; name="x"\r\n\r\n1\r\n' * 5000
    return {
        "two files": part + part + b"--b--\r\n",
        "5,000 fields": many + part + b"--b--\r\n",
        "no end": part,
        "no parts": b"--b--\r\n",
        "nothing": b"",
        "another boundary": part.replace(b"--b", b"--c"),
        "1,000 headers": b"--b\r\n" + b"a: b\r\n" * 1000 + b"\r\nabc\r\n--b--\r\n",
        "a header of a megabyte": b"--b\r\na: " + b"b" * (1 << 20) + b"\r\n\r\nabc\r\n--b--\r\n",
        "a header without end": b"--b\r\ncontent-disposition: form-data; filename=" + b"a" * 9000,
        "base64": part.replace(b"\r\n\r\n", b"\r\ncontent-transfer-encoding: base64" + b"\r\n\r\n")
        + b"--b--\r\n",
        "a file without a name": part.replace(b'; filename="a"', b"") + b"--b--\r\n",
        "an empty file": part.replace(b"abc", b"") + b"--b--\r\n",
        "null bytes": b"\0" * 5000,
    }


def _form(target: Target, form: bytes) -> str:
    kind = {"content-type": "multipart/form-data; boundary=b"}
    answer = target.call("POST", "/v1/uploads", form, key="ada", headers=kind)
    return f"{answer.status} {answer.body[:200]!r}" if answer.is_taken else ""


RANGES = (
    "bytes=0-99999999999999999999",
    "bytes=-99999999999",
    "bytes=--1",
    "bytes=1-0",
    "bytes=0-0,1-1," * 1000,
    "bytes=99-",
    "bytes=a-b",
    "items=0-1",
    "bytes=0-1\r\nx: y",
    "bytes=\u0660-\u0661",
    "bytes= 0 - 1",
    "",
)


def _range(target: Target, span: str) -> str:
    url = urlsplit(target.upload(b"0123"))
    written = span.encode().decode("latin-1")
    answer = target.call("GET", f"{url.path}?{url.query}", headers={"range": written})
    return answer.body[:100].decode("latin-1") if answer.is_taken and len(answer.body) > 4 else ""
