"""What is sent for an `Accept`: JSON, or which file."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.server.files.content_negotiation import preferred

PNG = ["image/png"]


@pytest.mark.parametrize(
    "accept",
    [
        *("image/png", "image/*", "IMAGE/PNG", " image/png ", "image/png;q=0.1", "image/png; Q=1"),
        *("image/png, */*;q=0.8", "application/json;q=0.9, image/*", "*/*;q=0.5, image/png;q=.6"),
        *("application/octet-stream", "audio/*, application/octet-stream;q=0.2"),
        *('image/png;title="a,b;q=0"', 'text/x;a="\\",", image/png', "nonsense, image/png"),
        *("image/png;level=1;q=0.1, application/json;q=0.5, image/png", "image/png,"),
        "image/png, application/json;q=0.5, image/png;level=1;q=0.1",
        *("application/json;q=0, */*", "image/png;q=1.000", "image/png;a=b;q=0.5;q=0"),
    ],
)
def test_a_picture_is_sent_to_whoever_likes_it_better_than_json(accept: str) -> None:
    assert preferred(accept.encode(), PNG) == 0


@pytest.mark.parametrize(
    "accept",
    [
        *("", "*/*", "application/json", "application/*", "image/jpeg", "audio/*", "image", ","),
        *("application/json, image/png", "application/json, text/plain, */*", "image/png, */*"),
        *("image/png;q=0", "image/png;q=0.5, application/json;q=0.6", "image/*, image/png;q=0"),
        *("application/json; charset=utf-8, image/png;q=0.9", "*/png", "image/png/x", "image /png"),
        *("image/png;q=2", "image/png;q=-1", "image/png;q=", 'image/png;q="1"', "image/png;q=nan"),
        "image/*;q=0, application/octet-stream",
        *("image/png;q=0, application/octet-stream", "image/png;q=0.5;q=1, application/json"),
        *('text/x;a="image/png, image/*', "é/*", "image/png;q=1e0", "image/png;q=1_0"),
    ],
)
def test_json_is_sent_to_everybody_else(accept: str) -> None:
    assert preferred(accept.encode(), PNG) is None


def test_the_first_of_the_files_that_are_liked_best_is_sent() -> None:
    files = ["text/plain", "image/webp", "image/png", "image/png"]
    assert preferred(b"image/png", files) == 2
    assert preferred(b"image/*", files) == 1
    assert preferred(b"image/webp;q=0.5, image/*;q=0.6, text/*;q=0.2", files) == 2
    assert preferred(b"application/octet-stream", files) == 0
    assert preferred(b"audio/*", files) is None
    assert preferred(b"image/*", []) is None


FAMILIES = ["image", "audio", "application", "text"]
NAMES = ["png", "json", "wav", "octet-stream"]

media_types = st.builds("{}/{}".format, st.sampled_from(FAMILIES), st.sampled_from(NAMES))
ranges = st.one_of(media_types, st.sampled_from([f"{each}/*" for each in FAMILIES]), st.just("*/*"))
#: In thousandths, which is as fine as they are.
accepts = st.dictionaries(ranges, st.integers(0, 1000), max_size=8)


def _liked(weights: dict[str, int], media_type: str, *, is_file: bool = True) -> int:
    """Return how much something is liked, by looking at all ranges that hold it."""
    family = media_type.split("/")[0]
    holding = [media_type, f"{family}/*", *["application/octet-stream"] * is_file, "*/*"]
    told = [weights[each] for each in holding if each in weights]
    return told[0] if told else 0


@pytest.mark.slow
@given(accepts, st.lists(media_types, max_size=5), st.randoms())
def test_weights_and_closeness_decide_and_not_how_it_is_written(
    weights: dict[str, int], files: list[str], rng: random.Random
) -> None:
    written = [f"{each};q={weight // 1000}.{weight % 1000:03}" for each, weight in weights.items()]
    rng.shuffle(written)
    best, least = None, _liked(weights, "application/json", is_file=False)
    for number, media_type in enumerate(files):
        if _liked(weights, media_type) > least:
            best, least = number, _liked(weights, media_type)
    plain, other = (
        ",".join(written),
        "\t, ".join(written).upper().replace(";", ' ; A="B,C;\\"D" ; '),
    )
    assert preferred(plain.encode(), files) == best
    assert preferred(other.encode(), files) == best


@given(st.binary(max_size=200), st.lists(media_types, max_size=5))
def test_any_bytes_mean_something(accept: bytes, files: list[str]) -> None:
    chosen = preferred(accept, files)
    assert chosen is None or 0 <= chosen < len(files)


def test_one_that_is_too_long_to_be_kept_means_nothing() -> None:
    assert preferred(b"image/png".ljust(1000), PNG) == 0
    assert preferred(b"image/png".ljust(1001), PNG) is None
