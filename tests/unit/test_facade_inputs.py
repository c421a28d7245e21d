"""Strings of inputs that façades replace."""

from typing import Any

from swell.compat.request_inputs import replace_strings


async def marked(text: str, pointer: str) -> str:
    return f"{text}@{pointer}"


def is_wanted(text: str) -> bool:
    return text.startswith("x")


async def replaced(value: Any, at: str = "") -> Any:
    return await replace_strings(value, is_wanted, marked, at)


async def test_what_is_wanted_is_replaced_wherever_it_stands() -> None:
    value = {"a": "x1", "b/c": [{"d": "x2"}, "y", 3, None], "e": {}}
    assert await replaced(value, "/input") == {
        "a": "x1@/input/a",
        "b/c": [{"d": "x2@/input/b~1c/0/d"}, "y", 3, None],
        "e": {},
    }
    assert await replaced("x", "/image") == "x@/image"


async def test_what_lies_too_deep_stays() -> None:
    value: Any = "x"
    for _ in range(60):
        value = [value]
    assert await replaced(value) == value
