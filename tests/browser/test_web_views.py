"""What is looked at by figures and `make web-pictures` is all that there is."""

import re
import sys

from app import ROOT

sys.path.insert(0, str(ROOT / "web"))
sys.path.insert(0, str(ROOT / "benchmarks"))

from views import SIZES, VIEWS

from web_journeys import JOURNEYS

_ROUTES = re.findall(
    r'\{ path: "([^"]+)"', (ROOT / "web" / "src" / "lib" / "router.svelte.ts").read_text()
)


def test_every_page_is_looked_at() -> None:
    seen = [view.path.partition("?")[0] for view in VIEWS if view.server == "full"]
    assert len(_ROUTES) > 8
    for route in _ROUTES:
        pattern = re.sub(r":\w+", "[^/]+", route)
        assert any(re.fullmatch(pattern, path) for path in seen), route


def test_a_view_has_a_name_of_its_own_and_is_seen_somewhere() -> None:
    names = [view.name for view in VIEWS]
    assert len(names) == len(set(names))
    assert all(set(view.sizes) & set(SIZES) for view in VIEWS)


def test_every_page_has_been_seen_empty_where_it_lists_something() -> None:
    empty = {view.path for view in VIEWS if view.server == "empty"}
    assert {"/", "/portraits", "/library", "/models", "/fleet", "/tasks", "/costs"} <= empty


def test_every_journey_has_its_test() -> None:
    for file, name in JOURNEYS.values():
        text = (ROOT / "tests" / "browser" / file).read_text()
        assert f"def {name}(" in text, name
