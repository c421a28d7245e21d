"""What errors of clouds mean: none to be had, none allowed, too much to do, or ours to mend."""

from collections.abc import Callable, Sequence

from swell.core.errors import InvalidInput, SwellError, Unavailable
from swell.core.provider import Instance, Refused
from swell.core.redact import hide_secrets

#: Takes an error's code and message.
Test = Callable[[str, str], bool]

#: Longest text of a cloud that is told on.
_MOST: int = 1000


def in_words(errors: Sequence[tuple[str, str]]) -> str:
    """Return errors, as (code, message) pairs, for people: each once, and without secrets.

    Clouds repeat what they do not take, such as a script that has the worker's token.
    """
    told = "; ".join(dict.fromkeys(f"{code}: {message}" for code, message in errors))
    return hide_secrets(told)[:_MOST]


def explained(
    who: str,
    errors: Sequence[tuple[str, str]],
    *,
    is_lack: Test,
    is_quota: Test,
    is_busy: Test,
) -> Unavailable | InvalidInput:
    """Return what to raise for errors of a cloud, as (code, message) pairs.

    Where some say that there are none and others that no more are allowed, other places would have
    to be found first: that is a lack. What only a change of options would mend is told as that.

    Args:
        who: What the cloud is called.
        errors: Of one call; empty where it gave nothing and did not say why.
        is_lack: Whether an error says that there are none to be had now.
        is_quota: Whether it says that nobody may have more before somebody raises a limit.
        is_busy: Whether it says that the cloud is to be asked again later.
    """
    told = in_words(errors)

    def some(test: Test) -> bool:
        return any(test(code, message) for code, message in errors)

    if not errors:
        return Refused(f"{who} gave no machines, and did not say why")
    if some(is_lack):
        return Refused(f"{who} has none to give: {told}")
    if some(is_quota):
        return Refused(f"{who} allows no more: {told}", is_quota=True)
    if some(is_busy):
        return Unavailable(f"{who} has too much to do: {told}", headers={"Retry-After": "10"})
    return InvalidInput(f"{who} does not take what the pool's options say: {told}")


def given_of(made: Sequence[Instance | BaseException]) -> list[Instance]:
    """Return what was given, where each was asked for alone.

    Raises:
        BaseException: What one was refused is the answer only if no other was given; a fault of
            ours always is.
    """
    given = [each for each in made if isinstance(each, Instance)]
    for each in made:
        if isinstance(each, BaseException) and not (given and isinstance(each, SwellError)):
            raise each
    return given
