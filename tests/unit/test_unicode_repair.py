"""Texts that go to the wire."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.runtime.ipc_messages import Fault, Results, decode_frame, encode_frame
from swell.runtime.unicode_repair import describe_error, mend, valid_text

#: Hypothesis leaves surrogates out unless asked for.
anything = st.text(st.characters(exclude_categories=[]))


@given(anything)
def test_every_text_becomes_one_that_utf8_can_tell(text: str) -> None:
    assert valid_text(text).encode().decode() == valid_text(text)


@given(st.text())
def test_a_text_that_utf8_can_tell_stays_as_it_is(text: str) -> None:
    assert valid_text(text) == text


def test_a_pair_of_surrogates_becomes_its_character_and_half_of_one_is_replaced() -> None:
    assert valid_text("\ud83e\udd8a \ud83e!") == "\N{FOX FACE} \N{REPLACEMENT CHARACTER}!"


@pytest.mark.slow
@given(
    st.recursive(
        st.none() | st.integers() | anything,
        lambda inner: st.lists(inner) | st.dictionaries(anything, inner),
        max_leaves=8,
    )
)
def test_whatever_is_mended_can_be_told(value: object) -> None:
    msgspec.json.encode(mend(value))


@given(anything, anything)
def test_a_frame_with_any_text_arrives(title: str, detail: str) -> None:
    fault = Fault(1, "model_error", title, detail, True, 0.5)
    frame = encode_frame(Results(7, [], [fault], [2], True))
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    told = decode_frame(frame[4:])
    mended = Fault(1, "model_error", valid_text(title), valid_text(detail), True, 0.5)
    assert told == Results(7, [], [mended], [2], True)


def test_an_error_without_words_is_told_by_its_kind() -> None:
    assert describe_error(ValueError()) == "ValueError"
    assert describe_error(ValueError("no")) == "no"
