"""Strings of inputs that façades replace."""

from typing import Any

from swell.compat.request_inputs import replace_strings


async def marked(text: str, pointer: str) -> str:
    return f"{text}@{pointer}" if text.startswith("x") else text


async def test_what_is_wanted_is_replaced_wherever_it_stands() -> None:
    value = {"a": "x1", "b/c": [{"d": "x2"}, "y", 3, None], "e": {}}
    assert await replace_strings(value, marked, "/input") == {
        "a": "x1@/input/a",
        "b/c": [{"d": "x2@/input/b~1c/0/d"}, "y", 3, None],
        "e": {},
    }
    assert await replace_strings("x", marked, "/image") == "x@/image"


async def test_what_lies_too_deep_stays() -> None:
    value: Any = "x"
    for _ in range(60):
        value = [value]
    assert await replace_strings(value, marked, "") == value
