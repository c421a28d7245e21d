"""What of the examples can be looked at without a server."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.client import Problem, Task, Unreachable

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module", autouse=True)
def path() -> Iterator[None]:
    """The folder of the examples, as `start.py` has it on the path."""
    before = set(sys.modules)
    sys.path.insert(0, str(EXAMPLES))
    yield
    sys.path.remove(str(EXAMPLES))
    for name in set(sys.modules) - before:
        if str(EXAMPLES) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def front() -> ModuleType:
    import front  # noqa: PLC0415 - after the path is set

    return front


def translate() -> ModuleType:
    from translate import app  # noqa: PLC0415 - after the path is set

    return app


def dream() -> ModuleType:
    from dream import app  # noqa: PLC0415 - after the path is set

    return app


@pytest.mark.slow
@given(st.from_regex(r"[0-9a-f]{1,24}", fullmatch=True), st.binary(min_size=32, max_size=32))
def test_a_name_in_a_cookie_is_taken_back_and_nothing_made_up_is(name: str, secret: bytes) -> None:
    cookie = front().signed(name, secret)
    assert front().name_in(cookie, secret) == name
    assert front().name_in(cookie, bytes(32)) is None or secret == bytes(32)
    assert front().name_in("f" + cookie, secret) is None
    for nothing in (None, "", name, f"{name}.", "."):
        assert front().name_in(nothing, secret) is None


def test_a_page_says_four_things_of_a_task_and_its_user_is_the_fronts_to_say() -> None:
    body = {
        "model": "a/b",
        "input": {"x": 1},
        "user": "anna",
        "class": "paid",
        "priority": 0,
        "webhook": "http://example.com",
        "count": 2,
    }
    told = front().asked_by_page(json.dumps(body).encode(), {"a/b"}, "me")
    assert told == {"model": "a/b", "input": {"x": 1}, "count": 2, "user": "me"}


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"[]", 400), (b"{}", 403), (b'{"model": "a/c"}', 403)]
)
def test_what_is_no_task_of_the_app_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(front().Refusal) as refused:
        front().asked_by_page(body, {"a/b"}, "me")
    assert refused.value.status == status


@given(st.text(alphabet="ab .!\n\t", max_size=200), st.integers(1, 30))
def test_paragraphs_are_the_text_and_none_is_too_long(text: str, longest: int) -> None:
    parts = translate().paragraphs(text, longest)
    assert "".join(part for part, _ in parts) == text
    assert all(len(part) <= longest for part, is_said in parts if is_said)
    assert all(bool(part.strip()) == is_said for part, is_said in parts)


def test_a_long_paragraph_is_taken_apart_at_the_ends_of_sentences() -> None:
    parts = translate().paragraphs("One two. Three four. Five six seven", 22)
    assert [part for part, _ in parts] == ["One two. Three four. ", "Five six seven"]


def test_days_before_the_first_are_not_counted() -> None:
    app = translate()
    days = {"2026-10-01": app.Tally(9, 9), "2026-11-01": app.Tally(5, 1)}
    days["2026-11-02"] = app.Tally(2, 2)
    assert app.summed(days, "2026-11-01") == app.Tally(7, 3)


def test_a_user_with_credits_of_his_own_has_paid() -> None:
    plan_of = dream().plan_of
    free = [{"name": "user-samples-day", "left": 4}, {"name": "tasks-day", "left": 9}]
    assert plan_of(free) == {"plan": "free", "credits_micros": 0, "free_left_today": 4}
    paid = [{"name": "user-credits", "left": -10}]
    assert plan_of(paid) == {"plan": "paid", "credits_micros": -10, "free_left_today": 0}


@pytest.mark.parametrize(
    ("state", "code", "is_worth_it"),
    [
        ("succeeded", "", False),
        ("running", "", False),
        ("canceled", "", True),
        ("failed", "worker_lost", True),
        ("failed", "model_error", True),
        ("failed", "rejected", False),
        ("failed", "invalid_input", False),
    ],
)
def test_what_came_to_nothing_is_asked_for_again_unless_it_was_the_texts_fault(
    state: str, code: str, is_worth_it: bool
) -> None:
    error = Problem(code=code) if code else None
    task = Task(id="t", model="company/translate", state=state, error=error)
    assert translate().may_be_asked_again(task) is is_worth_it


def test_what_cannot_be_reached_or_takes_long_may_be_asked_again() -> None:
    for error in (Unreachable("nobody answers"), TimeoutError()):
        refusal = translate()._refusal(error)
        assert (refusal.status, "ask again" in refusal.detail) == (503, True)


@pytest.mark.parametrize(
    ("granted", "spent", "held", "is_held"),
    [
        (20, 0, 20, True),
        (20, 15, 5, True),
        (20, 15, 0, False),
        (20, 20, 5, False),
        (0, 0, 0, False),
    ],
)
def test_credits_are_held_where_they_may_come_back(
    granted: int, spent: int, held: int, is_held: bool
) -> None:
    account = {"granted_micros": granted, "spent_micros": spent, "held_micros": held}
    assert dream().is_held(account) is is_held


def test_every_app_is_listed_and_has_what_start_needs() -> None:
    apps = {path.parent.name for path in EXAMPLES.glob("*/app.py")}
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for name in apps:
        assert f"[{name}]({name}/README.md)" in listed
        readme = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
        assert f"\nmake example NAME={name}\n" in readme
        for file in ("swell.toml", "page/index.html"):
            assert (EXAMPLES / name / file).is_file()
    assert apps == {"dream", "multimodal", "portraits", "sing", "translate"}


def test_the_pages_have_the_colours_corners_and_typeface_of_the_web_app() -> None:
    web = EXAMPLES.parent / "web" / "src" / "lib"
    token = re.compile(r"^ *(--[\w-]+): ([^;]+);", re.M)
    theme = dict(token.findall((web / "theme.css").read_text()))
    own = dict(token.findall((EXAMPLES / "page" / "page.css").read_text()))
    assert len(own) > 10
    assert own == {name: theme[name] for name in own}
    font = "bricolage-grotesque.woff2"
    assert (EXAMPLES / "page" / font).read_bytes() == (web / "fonts" / font).read_bytes()


def test_every_idea_of_dream_has_its_picture() -> None:
    page = EXAMPLES / "dream" / "page"
    named = set(re.findall(r'", "([\w-]+)"\],', (page / "dream.js").read_text()))
    assert named == {path.stem for path in (page / "ideas").iterdir()}
