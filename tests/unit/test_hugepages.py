"""Model processes ask for large pages, and leave alone who has said something about them."""

import pytest

from swell.runtime.hugepages import with_large_pages


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=3", "glibc.malloc.check=3:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
        ("glibc.malloc.hugetlb=2:glibc.malloc.check=3",) * 2,
    ],
)
def test_what_was_said_stays(told: str | None, found: str) -> None:
    variables = {"PATH": "/bin"} | ({} if told is None else {"GLIBC_TUNABLES": told})
    assert with_large_pages(variables) == {"PATH": "/bin", "GLIBC_TUNABLES": found}


def test_what_it_is_given_is_not_changed() -> None:
    variables = {"PATH": "/bin"}
    with_large_pages(variables)
    assert variables == {"PATH": "/bin"}
