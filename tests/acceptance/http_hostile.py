"""Malformed requests of every kind against a running service, and what must come back.

Every answer must be a clear 4xx: a problem document that says what to do. schemathesis makes the
requests from the service's own OpenAPI; those that people really get wrong are spelled out.
"""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.failures import Failure
from schemathesis.specs.openapi.checks import negative_data_rejection

#: Members of every problem document.
MEMBERS = ("type", "title", "status", "detail", "instance", "code", "request_id", "error")

#: Façades that tell errors in the words of others.
PLAIN = ("/openai/", "/fal/", "/libretranslate/")


@dataclass
class Findings:
    """What was asked and what was wrong with the answers."""

    asked: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def note(self, what: str, response: Any, *, must_fail: bool) -> None:
        """Count an answer, and keep it if it is not what it must be."""
        self.asked += 1
        self.statuses[str(response.status_code)] += 1
        complaint = judge(response, must_fail=must_fail)
        if complaint:
            text = response.content[:300].decode(errors="replace")
            self.wrong.append(f"{what}: {complaint}: {response.status_code} {text}")


def judge(response: Any, *, must_fail: bool) -> str:
    """Return what is wrong with an answer; empty if nothing."""
    status = response.status_code
    if status >= 500:
        return "a 5xx"
    if status < 400:
        return "accepted" if must_fail else ""
    try:
        problem = json.loads(response.content)
    except ValueError:
        return "a problem document that is not JSON"
    # A façade's clients look for plain JSON; what stands in it is a problem document all the same.
    is_facade = str(problem.get("instance")).startswith(PLAIN)
    kinds = ("application/problem+json", *(("application/json",) if is_facade else ()))
    if not _first(response.headers, "content-type").startswith(kinds):
        return "no problem document"
    missing = [name for name in MEMBERS if name not in problem]
    if missing:
        return f"a problem document without {missing}"
    if problem["status"] != status or not problem["detail"] or not problem["code"]:
        return "a problem document that says little"
    if _first(response.headers, "x-request-id") != problem["request_id"]:
        return "another request id in the header"
    return ""


def fuzz(url: str, key: str, *, per_operation: int, seed: int, findings: Findings) -> None:
    """Send malformed requests to every operation of the service."""
    described = requests.get(url + "/openapi.json", timeout=10).json()
    # Else every second request would fail on its key, before anything else is looked at.
    for operations in described["paths"].values():
        for operation in operations.values():
            operation.pop("security", None)
    schema = schemathesis.openapi.from_dict(described)
    headers = {"authorization": f"Bearer {key}"}
    with requests.Session() as session:
        for result in schema.get_all_operations():
            operation = result.ok()
            for mode in (GenerationMode.NEGATIVE, GenerationMode.POSITIVE):
                strategy = operation.as_strategy(generation_mode=mode)
                is_done = _run(
                    strategy, _sender(url, headers, session, findings), per_operation, seed
                )
                # What cannot be broken (a path without parameters) is asked as it is.
                if is_done:
                    break


def _sender(
    url: str, headers: dict[str, str], session: requests.Session, findings: Findings
) -> Callable[[Any], None]:
    def send(case: Any) -> None:
        response = case.call(base_url=url, headers=headers, session=session, timeout=30)
        findings.operations[case.operation.label] += 1
        findings.note(case.as_curl_command()[:400], response, must_fail=False)
        if response.status_code < 400 and case.meta.generation.mode == GenerationMode.NEGATIVE:
            try:
                case.validate_response(response, checks=[negative_data_rejection])
            except* Failure:
                findings.wrong.append(f"accepted: {case.as_curl_command()[:400]}")

    return send


def _run(strategy: Any, send: Callable[[Any], None], n: int, seed: int) -> bool:
    """Send `n` requests; return False if there are none of this kind."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=n,
        deadline=timedelta(seconds=30),
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=strategy)
    def each(case: Any) -> None:
        send(case)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            each()
    except Unsatisfiable:
        return False
    return True


def mistakes(url: str, key: str, model: str) -> Iterator[tuple[str, Any, int, str]]:
    """Yield (what, answer, right status, words that must be in its detail) of known mistakes."""
    known = {"authorization": f"Bearer {key}"}
    tasks = url + "/v1/tasks"
    good = {"model": model, "input": {"text": "a"}}

    def post(body: Any, **more: Any) -> Any:
        headers = {**known, **more.pop("headers", {})}
        return requests.post(more.pop("at", tasks), json=body, headers=headers, timeout=30, **more)

    misspelled = model[:-1]
    yield "unknown model", post({**good, "model": misspelled}), 404, f"did you mean {model}"
    yield "how to serve one", post({**good, "model": misspelled}), 404, "swell worker"
    yield "wrong type", post({**good, "input": {"text": 5}}), 422, "/input/text"
    yield "unknown field", post({**good, "prioriti": 1}), 422, "did you mean 'priority'"
    yield "unknown input", post({**good, "input": {"textt": "a"}}), 422, "did you mean 'text'"
    yield "out of bounds", post({**good, "count": 1000}), 422, "/count"
    large = post({**good, "metadata": "x" * (11 * 1024 * 1024)})
    yield "too large", large, 413, "/v1/uploads"
    broken = requests.post(
        tasks, b"{", headers={**known, "content-type": "application/json"}, timeout=30
    )
    yield "not JSON", broken, 400, "JSON"
    form = requests.post(tasks, {"model": model}, headers=known, timeout=30)
    yield "a form", form, 400, "application/json"
    wrong = {"authorization": "Bearer swell_wrong"}
    yield "wrong key", post(good, headers=wrong), 401, "swell keys create"
    none = requests.post(tasks, json=good, timeout=30)
    yield "no key", none, 401, "Authorization: Bearer"
    yield "bad batch", post({"tasks": [good, {}]}, at=tasks + "/batch"), 422, "/tasks/1"
    clash = {"idempotency-key": f"clash-{key[-8:]}"}
    post(good, headers=clash)
    other = post({**good, "input": {"text": "b"}}, headers=clash)
    yield "another body", other, 422, "dempotency"
    gone = requests.get(tasks + "/nope", headers=known, timeout=30)
    yield "unknown task", gone, 404, "GET /v1/tasks"
    path = requests.get(url + "/v1/taskz", headers=known, timeout=30)
    yield "unknown path", path, 404, "/v1/tasks"
    method = requests.delete(tasks, headers=known, timeout=30)
    yield "wrong method", method, 405, "GET, HEAD, POST"
    bare = requests.get(url + "/v1/artifacts/outputs/a/1/b.png", timeout=30)
    yield "unsigned URL", bare, 403, "again"
    upload = requests.post(url + "/v1/uploads", b"hello", headers=known, timeout=30).json()
    forged = upload["url"].replace("signature=", "signature=x")
    yield "forged URL", requests.get(forged, timeout=30), 403, "wrong"
    beyond = requests.get(upload["url"], headers={"range": "bytes=99-"}, timeout=30)
    yield "range beyond the end", beyond, 416, "5 bytes"


def check_mistakes(url: str, key: str, model: str, findings: Findings) -> None:
    """Make known mistakes, and note every answer that does not say what to do."""
    for what, response, status, words in mistakes(url, key, model):
        findings.note(what, response, must_fail=True)
        detail = response.text
        if response.status_code != status or words not in detail:
            findings.wrong.append(
                f"{what}: {response.status_code}, not {status} with {words!r}: {detail[:300]}"
            )


def check_expired(url: str, expired: str, findings: Findings) -> None:
    """Ask for a file by a URL that was signed for a moment that has passed."""
    response = requests.get(expired if "://" in expired else url + expired, timeout=30)
    findings.note("expired URL", response, must_fail=True)
    if response.status_code != 403 or "expired" not in response.text:
        findings.wrong.append(f"expired URL: {response.status_code} {response.text[:300]}")


def _first(headers: Any, name: str) -> str:
    # schemathesis gives lists of values, requests gives one.
    value = headers.get(name, "")
    return str(value[0] if isinstance(value, list) else value)
