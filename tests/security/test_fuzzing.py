"""Parsers of what comes over the network, for a fixed number of broken inputs each."""

import random
from pathlib import Path

import pytest
from fuzzing import PARSERS, Findings, Parser, fuzz, fuzz_service, mutated
from target import a_target

INPUTS = 1500


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_refuses_in_its_own_words_or_takes_what_came(name: str) -> None:
    findings = Findings()
    fuzz(name, PARSERS[name], random.Random(name), findings, INPUTS)
    assert findings.wrong == []


@pytest.mark.parametrize("name", PARSERS)
def test_examples_are_such_that_some_are_taken(name: str) -> None:
    """A parser that refuses everything would be tested at its door alone."""
    parser = PARSERS[name]

    def is_taken(data: bytes) -> bool:
        try:
            parser.read(data)
        except parser.refusals:
            return False
        return True

    rng = random.Random(1)
    assert any(is_taken(mutated(rng, parser.examples)) for _ in range(3000))


def test_a_parser_that_breaks_is_seen() -> None:
    findings = Findings()
    fuzz("broken", Parser([b"5"], lambda data: 1 // int(data), ()), random.Random(1), findings, 100)
    assert findings.wrong


def test_broken_requests_never_break_the_service(tmp_path: Path) -> None:
    findings = Findings()
    with a_target(tmp_path) as target:
        fuzz_service(target, random.Random(7), findings, 400)
        assert target.works()
    assert findings.wrong == []
