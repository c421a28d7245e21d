"""What models are asked in a comparison, what its sheet holds, and what is refused before."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from added_harness import dreams
from swell.cli.adding import write_trial
from swell.cli.comparing import _rows
from swell.cli.models import app
from swell.cli.prompts import fitted, read_prompts, text_field, unknown_to
from swell.cli.voting import _read
from swell.core.errors import InvalidRequest
from swell.sdk.model_loader import load_models
from swell.server.evals.comparison_sheet import sheet


def a_schema(*fields: str, is_open: bool = False) -> dict[str, Any]:
    found = {name: {"type": "string" if name != "steps" else "integer"} for name in fields}
    return {"properties": found, "additionalProperties": is_open}


def a_card(name: str, *fields: str) -> dict[str, Any]:
    return {"name": name, "version": "1", "input_schema": a_schema(*fields)}


def a_file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_each_line_is_a_prompt(tmp_path: Path) -> None:
    path = a_file(tmp_path, "p.txt", "# what to draw\n\n a red fox \nein Ätna\n")
    assert read_prompts(path, "prompt") == [{"prompt": "a red fox"}, {"prompt": "ein Ätna"}]


def test_inputs_may_be_json_or_toml(tmp_path: Path) -> None:
    lines = a_file(tmp_path, "p.jsonl", '{"prompt": "a", "steps": 3}\n\n{"prompt": "b"}\n')
    assert read_prompts(lines, None) == [{"prompt": "a", "steps": 3}, {"prompt": "b"}]
    table = a_file(tmp_path, "p.toml", '[[inputs]]\nprompt = "a"\nsteps = 3\n')
    assert read_prompts(table, None) == [{"prompt": "a", "steps": 3}]


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("p.txt", "# nothing\n", "holds no prompt"),
        ("p.txt", "a\n", "no field of all models takes a text"),
        ("p.jsonl", '{"a": 1}\n{', "line 2: it is not JSON"),
        ("p.jsonl", "[1]", "line 1: an input is an object"),
        ("p.toml", "inputs = 3", r"write each input as a table \[\[inputs\]\]"),
        ("p.toml", "[[inputs", "p.toml:"),
    ],
)
def test_a_file_that_cannot_be_asked_says_where(
    tmp_path: Path, name: str, text: str, word: str
) -> None:
    with pytest.raises(InvalidRequest, match=word):
        read_prompts(a_file(tmp_path, name, text), None)


def test_a_line_stands_for_the_field_that_all_models_share() -> None:
    assert text_field([a_schema("style", "prompt"), a_schema("prompt")]) == "prompt"
    assert text_field([a_schema("style", "text"), a_schema("text", "style")]) == "text"
    assert text_field([a_schema("words"), a_schema("words", "steps")]) == "words"
    assert text_field([a_schema("prompt"), a_schema("text")]) is None


def test_a_model_gets_the_fields_that_it_knows() -> None:
    values = {"prompt": "a", "steps": 3}
    assert fitted(values, a_schema("prompt")) == {"prompt": "a"}
    assert fitted(values, a_schema(is_open=True)) == values
    schemas = {"one": a_schema("prompt"), "two": a_schema("prompt", "steps")}
    assert unknown_to([values], schemas) == {"steps": ["one"]}
    with pytest.raises(InvalidRequest, match="none of the models has a field 'size'"):
        unknown_to([{"size": 1}], schemas)


def test_all_models_get_the_same_seeds_and_the_given_inputs(tmp_path: Path) -> None:
    path = a_file(tmp_path, "p.txt", "a\nb\n")
    cards = [a_card("a/a", "prompt", "steps"), a_card("b/b", "prompt")]
    rows = _rows(cards, path, ["steps=4"], 10, 2)
    assert [(row.values["prompt"], row.values["steps"], row.seed) for row in rows] == [
        *(("a", 4, 10), ("a", 4, 11), ("b", 4, 10), ("b", 4, 11))
    ]


def test_too_much_and_the_same_twice_are_refused(tmp_path: Path) -> None:
    path = a_file(tmp_path, "p.txt", "a\n" * 30)
    cards = [a_card("a/a", "prompt"), a_card("b/b", "prompt")]
    with pytest.raises(InvalidRequest, match="compare in parts"):
        _rows(cards, path, [], 0, 4)
    with pytest.raises(InvalidRequest, match="same version"):
        _rows([cards[0], cards[0]], path, [], 0, 1)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("compare", "demo/upper", "--prompts", "p.txt"), "name two to four"),
        (("compare", *["a/b"] * 5, "--prompts", "p.txt"), "name two to four"),
        (("votes", "--close"), "name a comparison"),
        (("votes", "id", "--file", "p.txt"), "give an ID, --file or --ratings"),
        (("votes", "--file", "p.txt"), "contains no votes"),
        (("try", "poster.py", "--name", "a/b"), "--name is for folders"),
        (("try", "demo/upper", "--reload"), "--reload is for a FILE.py"),
        (("try", "p.py", "--reload", "--url", "http://h"), "--reload is for a FILE.py"),
        (("try", "empty"), "model_index.json"),
    ],
)
def test_what_makes_no_sense_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("one\n")
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, word in done.stderr) == (2, True), done.stderr


def test_a_folder_of_weights_is_tried_without_being_added(tmp_path: Path) -> None:
    folder = dreams(tmp_path / "My dreams")
    for name, meant in ((None, "local/my-dreams"), ("me/dreams", "me/dreams")):
        [definition] = load_models(str(write_trial(str(folder), name, tmp_path / meant)))
        assert definition.name == meant


def a_sheet() -> str:
    picture = {"url": "/p", "content_type": "image/webp", "width": 3, "height": 2}
    cells = [
        {"number": 1, "picture": picture, "text": None},
        {"number": 2, "picture": None, "text": "<{{sheet}}"},
    ]
    row = {"row": 4, "label": "</script><b>x", "can_be_voted": True, "cells": cells}
    comparison = {"id": "c", "name": "<i>title", "rows": [row, row | {"can_be_voted": False}]}
    created = {"comparison": comparison, "permit": "p</x"}
    return sheet(created, {"/p": b"webp"}, "https://swell.example:8/v1/comparisons/c/ballots")


def test_a_sheet_is_whole_and_nothing_in_it_runs_but_its_own_script() -> None:
    text = a_sheet()
    assert text.count("<script") == 2
    assert "<b>x" not in text
    assert "<i>title" not in text
    assert "p</x" not in text
    told = json.loads(re.search(r'id="sheet">(.*?)</script>', text)[1])  # type: ignore[index]
    assert told["permit"] == "p</x"
    assert not re.search(r'(src|href)="(?!data:)', text)
    policy = re.search(r'content-security-policy" content="([^"]*)"', text)[1]  # type: ignore[index]
    assert "connect-src https://swell.example:8;" in policy
    assert "script-src &#x27;sha256-" in policy
    assert text.count('data-row="4"') == 1
    assert "&lt;{{sheet}}" in text


@pytest.mark.parametrize(
    "told",
    [
        "{}",
        "[]",
        "nothing",
        '{"comparison": "../x", "permit": "p", "voter": "v", "votes": []}',
        '{"comparison": "c", "permit": 1, "voter": "v", "votes": []}',
        '{"comparison": "c", "permit": "p", "voter": "v", "votes": [1]}',
        '{"comparison": "c", "permit": "p", "voter": "v", "voter_id": 7, "votes": []}',
    ],
)
def test_a_file_that_no_sheet_has_saved_is_refused(tmp_path: Path, told: str) -> None:
    with pytest.raises(InvalidRequest, match="contains no votes of a sheet"):
        _read(a_file(tmp_path, "votes.json", told))
