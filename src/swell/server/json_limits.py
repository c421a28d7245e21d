"""How many values a JSON body may have: each takes longer to decode than a byte of text."""

from typing import Final

from swell.core.errors import TooLarge

#: Most values in a JSON body: fields and items, however deep. Strings may be as long as the body.
MAX_VALUES: Final = 50_000

#: Most values in a report of a worker: outputs may be long lists of numbers, such as embeddings.
MAX_WORKER_VALUES: Final = 250_000

#: Every byte but those that stand before a value, in an array or an object.
_NOT_BEFORE_VALUES: Final = bytes(set(range(256)) - set(b",[{"))


def check_values(data: bytes, most: int = MAX_VALUES) -> int:
    """Check that JSON has no more values than may be decoded at once; return how many it may have.

    Raises:
        TooLarge: It has more than `most`.
    """
    if len(data) <= most:
        return len(data)
    count = count_values(data, most)
    if count > most:
        raise TooLarge(
            f"the body has more than {most:,} values, counting each field and each item of a "
            "list: send fewer at once, or upload a long list as a file with POST /v1/uploads and "
            "name its URL"
        )
    return count


def count_values(data: bytes, most: int = MAX_VALUES) -> int:
    """Return how many values JSON has, at most. Far above `most` the number is rough.

    For ten megabytes it takes some milliseconds, where decoding takes half a second.
    """
    count = len(data.translate(None, _NOT_BEFORE_VALUES))
    if count > most:
        # Text may be full of commas. An object's field has at most two strings.
        plain = data.replace(rb"\\", b"").replace(rb"\"", b"")
        if plain.count(b'"') <= 4 * most:
            bare = b"".join(plain.split(b'"')[::2])
            count = len(bare.translate(None, _NOT_BEFORE_VALUES))
    return count
