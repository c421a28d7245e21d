"""How large a card is, and which schemas it may have."""

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pydantic
import pytest
from api_harness import UPPER, World, a_world

import swell
from swell.core.card_limits import MAX_CARD_BYTES, MAX_MARKDOWN_BYTES, pattern_rules, rules_of
from swell.core.errors import InvalidModel
from swell.sdk.define import define


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


async def refusal(world: World, **facts: Any) -> str:
    """Return why a card is refused."""
    body = {"name": "w", "models": [UPPER | facts]}
    answer = await world.worker("POST", "/worker/v1/register", body)
    assert (answer.status, answer.json["code"]) == (422, "invalid_input"), answer.body
    return str(answer.json["detail"])


def schema(**prop: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"text": prop}}


def doubled(depth: int) -> dict[str, Any]:
    """Return a short schema that looks at a value 2 to the power of `depth` times."""
    defs: dict[str, Any] = {
        f"d{at}": {"anyOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(depth)
    }
    return {**schema(**{"$ref": "#/$defs/d0"}), "$defs": {**defs, f"d{depth}": {"type": "null"}}}


@pytest.mark.parametrize("name", ["description", "credits"])
async def test_markdown_on_a_card_has_a_limit(world: World, name: str) -> None:
    await world.register(UPPER | {name: "x" * MAX_MARKDOWN_BYTES})
    told = await refusal(world, **{name: "ä" * MAX_MARKDOWN_BYTES})
    assert f"the {name} of demo/upper" in told
    assert f"room for {MAX_MARKDOWN_BYTES:,}" in told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_schema", schema(type="string", examples=["x" * MAX_CARD_BYTES])),
        ("output_schema", schema(enum=["x" * MAX_CARD_BYTES])),
        ("examples", [{"text": "x" * 20}] * 10_000),
    ],
)
async def test_a_whole_card_has_a_limit(world: World, name: str, value: Any) -> None:
    told = await refusal(world, **{name: value})
    assert f"({name}: " in told
    assert f"the limit is {MAX_CARD_BYTES:,}" in told


@pytest.mark.parametrize("pattern", ["(?!bad)(a|aa)+$", "(?<=a)b", r"(a)\1"])
async def test_a_pattern_that_needs_backtracking_is_refused(world: World, pattern: str) -> None:
    told = await refusal(world, input_schema=schema(type="string", pattern=pattern))
    assert "look-around" in told
    assert "/properties/text/pattern" in told
    told = await refusal(world, input_schema=schema(patternProperties={pattern: {}}))
    assert "look-around" in told


@pytest.mark.parametrize("pattern", [r"(\w{1,1000}){1,1000}", r"^a{1,20001}$", r"^(\w\s){9000}$"])
async def test_a_pattern_with_a_large_repetition_is_refused(world: World, pattern: str) -> None:
    told = await refusal(world, input_schema=schema(type="string", pattern=pattern))
    assert "use maxLength instead of large repetitions" in told
    assert "look-around" not in told


@pytest.mark.parametrize(
    "pattern",
    [
        "^.{1,500}$",
        r"^\S{1,300}$",
        "^[^<>]{1,1000}$",
        "^[A-Za-z0-9+/=]{1,10000}$",
        r"^[\w .,-]{1,2000}$",
        "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        r"^data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+$",
        "^(a|aa)+$",
        "^(auto|[a-z]{2,3})$",
    ],
)
async def test_an_ordinary_pattern_is_small(world: World, pattern: str) -> None:
    await world.register(UPPER | {"version": "2", "input_schema": schema(pattern=pattern)})
    found = pattern_rules(pattern)
    assert found.open_weight + found.start_weight == 1


@pytest.mark.parametrize(
    ("pattern", "chars"),
    [
        ("[ab]*a[ab]{500}c", 503),
        ("^[ab]*a[ab]{500}c", 503),
        ("^(a{1,5}b){1,100}c", 601),
        ("^(?:a{500}|b{400}){2}", 1800),
        ("^a|[ab]*a[ab]{90}c", 94),
        (r"(?:x[)]{30}\){30}y)+", 62),
        (r"^\d{1,3}[ab]{2,500}", 503),
    ],
)
def test_a_pattern_that_follows_many_ways_at_once_is_large(pattern: str, chars: int) -> None:
    found = pattern_rules(pattern)
    assert found.pattern_chars == chars
    assert found.open_weight + found.start_weight >= 16 * (chars - 6)


@pytest.mark.parametrize("part", ["[", "(", "\\p{", "[\\", "{9", "(?<a", "a{999999999}"])
def test_a_long_pattern_is_read_once(part: str) -> None:
    began_s = time.process_time()
    assert pattern_rules(part * (100_000 // len(part))).pattern_chars <= 2 * 10**9
    assert time.process_time() - began_s < 5


def test_only_the_start_of_a_text_is_matched_with_an_anchored_pattern_that_ends() -> None:
    assert pattern_rules("^(data:|https?://)").checks(10**9, 1) < 100
    assert pattern_rules("^(data:|https?://)+").checks(10**9, 1) > 10**6
    assert pattern_rules("(data:|https?://)").checks(10**9, 1) > 10**6


@pytest.mark.parametrize("choice", [[1], {"a": 1}, 1.5])
def test_choices_that_take_long_to_compare_count_as_rules(choice: Any) -> None:
    assert rules_of({"enum": [choice] * 100}).schemas > 100
    assert rules_of({"enum": ["a", 1] * 100}).schemas > 100
    assert rules_of({"enum": ["a", "b"] * 100}).schemas == 1
    assert rules_of({"enum": [1, 2] * 100}).schemas == 1
    assert rules_of({"const": choice}).schemas > 1


async def test_a_tiny_multiple_is_refused(world: World) -> None:
    assert "multipleOf" in await refusal(world, input_schema=schema(multipleOf=1e-300))
    await world.register(UPPER | {"version": "2", "input_schema": schema(multipleOf=0.01)})
    assert rules_of(schema(multipleOf=0.01)).schemas > rules_of(schema(minimum=8)).schemas


async def test_a_short_schema_that_takes_long_is_refused(world: World) -> None:
    await world.register(UPPER | {"version": "2", "input_schema": doubled(5)})
    assert "rules" in await refusal(world, input_schema=doubled(30))
    matching = doubled(30)
    matching["$defs"]["d30"] = {"pattern": "a"}
    assert "3,221,225,471 patterns" in await refusal(world, input_schema=matching)
    many = {"type": "object", "properties": {f"p{n}": {"pattern": "a"} for n in range(101)}}
    assert "patterns" in await refusal(world, input_schema=many)


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ({"$ref": "#/$defs/nope"}, "refers to '#/$defs/nope'"),
        ({"$ref": "#name"}, "refers to '#name'"),
        ({"$ref": "https://example.com/a.json"}, "refers to 'https://example.com/a.json'"),
        ({"$dynamicRef": "#name"}, "refers to '#name'"),
        ({"$id": "https://example.com/a.json"}, "$id"),
        ({"type": "nothing"}, "'nothing' at /properties/text/type"),
    ],
)
async def test_a_schema_that_is_not_whole_is_refused(
    world: World, node: dict[str, Any], told: str
) -> None:
    assert told in await refusal(world, input_schema=schema(**node))


def test_a_schema_that_refers_to_itself_is_counted_once() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}
    assert rules_of(tree).schemas < 20
    assert rules_of(tree).loops
    assert not rules_of(doubled(5)).loops


def test_an_author_is_told_of_a_pattern_before_anything_is_served() -> None:
    class Shout(swell.Model):
        name = "demo/shout"

        class Input(pydantic.BaseModel):
            model_config = pydantic.ConfigDict(regex_engine="python-re")
            text: Annotated[str, pydantic.Field(pattern="(?!bad).*")]

        def run(self, items: list[Input]) -> list[str]:
            return [each.text for each in items]

    definition = define(Shout)
    with pytest.raises(InvalidModel, match=r"demo/shout has a pattern .*look-around"):
        definition.card()
