"""Strings of inputs that façades replace."""

import time
from typing import Any

import pytest

from swell.api.facades.inputs import replaced_strings


async def marked(text: str, pointer: str) -> str:
    return f"{text}@{pointer}"


def is_wanted(text: str) -> bool:
    return text.startswith("x")


async def replaced(value: Any, at: str = "") -> Any:
    return await replaced_strings(value, is_wanted, marked, at)


async def test_what_is_wanted_is_replaced_wherever_it_stands() -> None:
    value = {"a": "x1", "b/c": [{"d": "x2"}, "y", 3, None], "e": {}}
    assert await replaced(value, "/input") == {
        "a": "x1@/input/a",
        "b/c": [{"d": "x2@/input/b~1c/0/d"}, "y", 3, None],
        "e": {},
    }
    assert value == {"a": "x1", "b/c": [{"d": "x2"}, "y", 3, None], "e": {}}
    assert await replaced("x", "/image") == "x@/image"


async def test_what_lies_too_deep_stays() -> None:
    value: Any = "x"
    for _ in range(60):
        value = [value]
    assert await replaced(value) == value


@pytest.mark.slow
async def test_millions_of_others_take_little_time() -> None:
    value = {"list": ["y"] * 500_000 + [["y"]] * 100_000, "last": "x"}
    begun_s = time.process_time()
    made = await replaced(value)
    assert time.process_time() - begun_s < 2
    assert (made["list"], made["last"]) == (value["list"], "x@/last")
