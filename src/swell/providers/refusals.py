"""Classifies cloud errors: no capacity, no quota, overload, or a mistake in the options."""

from collections.abc import Callable, Sequence

from swell.core.errors import InvalidInput, SwellError, Unavailable
from swell.core.provider import Instance, Refused
from swell.core.redact import hide_secrets

#: Checks an error's code and message.
Test = Callable[[str, str], bool]

#: Longest text of a cloud in an error, in characters.
_MOST: int = 1000


def in_words(errors: Sequence[tuple[str, str]]) -> str:
    """Return the distinct errors as text without secrets, given (code, message) pairs.

    Clouds quote the rejected input, which can be a script with the worker's token.
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
    """Return the exception for the errors of a cloud, given as (code, message) pairs.

    A lack of capacity takes precedence over a quota error. Any other error is a mistake in the
    options.

    Args:
        who: Name of the cloud.
        errors: Errors of one call; empty if it launched nothing and gave no reason.
        is_lack: Whether an error means no capacity.
        is_quota: Whether an error means an exhausted quota.
        is_busy: Whether an error is temporary.
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
    """Return the launched instances, given the results of one call for each.

    Raises:
        BaseException: The first error that is not a `SwellError`; if no instance was launched, the
            first error of any kind.
    """
    given = [each for each in made if isinstance(each, Instance)]
    for each in made:
        if isinstance(each, BaseException) and not (given and isinstance(each, SwellError)):
            raise each
    return given
