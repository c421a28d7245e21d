import pytest

from swell.core.errors import InvalidRequest
from swell.net.database_urls import database_place


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://me@db.example/swell", "db.example:5432"),
        ("postgresql://me:pa%23ss%40%2F@db.example:6000/swell?sslmode=require", "db.example:6000"),
        ("postgresql://a:b@one,two:6000/swell", "one:5432,two:6000"),
        ("postgresql://a@[::1]:6000/swell", "::1:6000"),
        ("postgresql:///swell?host=/run/postgresql", "localhost:5432"),
    ],
)
def test_an_address_says_where_it_leads(url: str, place: str) -> None:
    assert database_place(url, "store.url") == place


@pytest.mark.parametrize(
    "password", ["hidden#x", "hidden/x", "hidden?x", "12/hidden", "12#hidden", "[hidden"]
)
def test_a_password_that_must_be_escaped_is_not_told(password: str) -> None:
    with pytest.raises(InvalidRequest, match=r"store\.url cannot be read.*%23 for #") as refused:
        database_place(f"postgresql://me:{password}@127.0.0.1/swell", "store.url")
    assert refused.value.__cause__ is None
    assert "hidden" not in str(refused.value)
