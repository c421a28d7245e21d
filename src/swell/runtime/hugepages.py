"""Large pages of memory for model processes."""

from collections.abc import Mapping
from typing import Final

_NAME: Final = "GLIBC_TUNABLES"
_TUNABLE: Final = "glibc.malloc.hugetlb"


def with_large_pages(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that asks the system for large pages, with these in it.

    At each step a network reads all of its weights: with pages of 2 MiB in place of 4 KiB a
    processor has far fewer addresses to look up. Only glibc takes notice, and Linux gives them
    where `/sys/kernel/mm/transparent_hugepage/enabled` is not `never`. Whoever has said something
    about them is left alone.

    Source:
        https://sourceware.org/glibc/manual/2.41/html_node/Memory-Allocation-Tunables.html
    """
    found = dict(variables)
    told = found.get(_NAME, "")
    if _TUNABLE not in told:
        found[_NAME] = f"{told}:{_TUNABLE}=1" if told else f"{_TUNABLE}=1"
    return found
