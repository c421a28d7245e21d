"""The programs in docs/clients.md run as they stand there."""

from collections.abc import Callable

import pytest
from client_harness import Served
from programs import Program

from pages import blocks

SNIPPETS = [
    *(("python", each) for each in blocks("docs/clients.md", "python")),
    *(("javascript", each) for each in blocks("docs/clients.md", "js")),
]


@pytest.mark.parametrize(
    ("language", "text"), SNIPPETS, ids=[f"{n}-{each}" for n, (each, _) in enumerate(SNIPPETS)]
)
def test_a_program_of_the_page_runs(
    language: str,
    text: str,
    served: Served,
    python: Callable[..., Program],
    javascript: Callable[..., Program],
) -> None:
    variables = {
        "REPLICATE_API_TOKEN": served.key,
        "REPLICATE_BASE_URL": f"{served.url}/replicate",
        "REPLICATE_URL": f"{served.url}/replicate/v1",
        "OPENAI_API_KEY": served.key,
        "OPENAI_BASE_URL": f"{served.url}/openai/v1",
        "FAL_KEY": served.key,
        "FAL_RUN_HOST": f"{served.host}/fal/run",
        "FAL_QUEUE_RUN_HOST": f"{served.host}/fal/queue",
        "SWELL_URL": served.url,
        "SWELL_KEY": served.key,
    }
    if language == "python":
        program = python("python", served, **variables)
    else:
        program = javascript(served, **variables)
    program(text)


def test_the_page_has_programs() -> None:
    assert len(SNIPPETS) >= 9
