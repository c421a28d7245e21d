"""What workers are given opens the backend: it stands in no error, and in nobody's `repr`."""

import pytest
from rich.pretty import pretty_repr

from swell.core.errors import InvalidInput
from swell.core.provider import LaunchRequest
from swell.providers.azure_token import Application
from swell.providers.kubeconfig import Access
from swell.providers.refusals import explained, in_words

TOKEN = f"swell_{'k' * 48}"


def never(code: str, message: str) -> bool:
    return False


def test_what_a_cloud_repeats_of_a_script_has_no_key_in_it() -> None:
    message = f"Invalid value for field 'metadata.items[4].value': 'SWELL_WORKER__TOKEN={TOKEN}\\n'"
    told = explained("Google", [("invalid", message)], is_lack=never, is_quota=never, is_busy=never)
    assert isinstance(told, InvalidInput)
    assert "metadata.items[4]" in told.detail
    assert TOKEN not in told.detail


def test_a_key_is_not_cut_in_two_where_a_long_text_ends() -> None:
    for before in range(940, 1000):
        told = in_words([("invalid", f"{'x' * before}={TOKEN}")])
        assert len(told) <= 1000
        assert "swell_k" not in told


@pytest.mark.parametrize(
    "value",
    [
        LaunchRequest(pool="p", environment={"SWELL_WORKER__TOKEN": TOKEN}),
        Application(directory="d", client_id="c", secret=TOKEN, login_url="u"),
        Access(url="u", namespace="n", token=TOKEN, variables={"TOKEN": TOKEN}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_a_secret_does_not_show_it(value: object) -> None:
    for shown in (repr(value), str(value), pretty_repr(value)):
        assert TOKEN not in shown
        assert type(value).__name__ in shown
