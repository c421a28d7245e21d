"""The tree of errors."""

import re

import pytest

from swell.core import errors
from swell.core.errors import (
    Conflict,
    InvalidInput,
    RequestTimeout,
    SwellError,
    TooManyRequests,
    Unavailable,
)

CONCRETE = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, SwellError) and error is not SwellError
]


def test_codes_are_stable_words_and_unique() -> None:
    codes = [error.code for error in CONCRETE]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("error", CONCRETE)
def test_an_error_tells_the_caller_what_kind_it_is(error: type[SwellError]) -> None:
    assert 400 <= error.status < 600
    assert error.title
    assert error.__doc__


@pytest.mark.parametrize("error", CONCRETE)
def test_what_may_be_retried_is_the_servers_state_and_not_the_request(
    error: type[SwellError],
) -> None:
    # What was too slow or too much may be neither the next time.
    assert error.retryable == (
        error.status >= 500 or issubclass(error, (TooManyRequests, RequestTimeout))
    )


@pytest.mark.parametrize("error", CONCRETE)
def test_a_subclass_does_not_contradict_its_parent_on_retrying(error: type[SwellError]) -> None:
    parent = error.__base__
    assert parent is not None
    if parent is not SwellError:
        assert issubclass(parent, SwellError)
        assert error.retryable == parent.retryable


def test_the_tree_drawn_at_the_top_names_every_error_with_its_status() -> None:
    drawn = {}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.search(r"[├└]── (\w+) +(\d{3})", line):
            drawn[found[1]] = int(found[2])
    assert drawn == {error.__name__: error.status for error in CONCRETE}


def test_the_text_says_what_was_given_or_else_the_title() -> None:
    assert str(Conflict("it is over")) == Conflict("it is over").detail == "it is over"
    assert str(Conflict()) == Conflict().detail == Conflict.title


def test_broken_fields_and_headers_travel_with_the_error() -> None:
    broken = {"pointer": "/text", "detail": "too long", "code": "string_too_long"}
    error = InvalidInput("one value is not allowed", errors=[broken])  # type: ignore[list-item]
    assert error.errors == (broken,)
    assert Unavailable("later", headers={"Retry-After": "3"}).headers == {"Retry-After": "3"}
    assert Unavailable("later").headers == {}
