"""The app `translate` of the examples: LibreTranslate's clients, documents, and what is counted."""

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from example_apps import EXAMPLES, Example, started
from pages import ROOT, Reader, block

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    make = block("examples/translate/README.md", "make example", "sh")
    with started(make, tmp_path_factory.mktemp("translate") / "data") as running:
        yield running


def ask(example: Example, path: str, body: Any = None, form: str = "") -> Any:
    data = form.encode() if form else json.dumps(body).encode() if body is not None else None
    kind = "application/x-www-form-urlencoded" if form else "application/json"
    request = urllib.request.Request(example.url + path, data, {"content-type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_a_text_keeps_its_lines_and_the_companys_words(example: Example) -> None:
    text = "  un gato azul en la casa matriz\n\nla nieve de Nube Segura "
    said = ask(example, "/translate", {"q": text, "source": "auto", "target": "en"})
    first = "  a blue cat in the headquarters\n\nthe snow of Nube Segura "
    assert said["translatedText"] == first
    assert said["detectedLanguage"] == {"language": "es", "confidence": 100.0}


def test_forms_and_lists_are_taken_as_libretranslate_takes_them(example: Example) -> None:
    one = ask(example, "/translate", form="q=eine+rote+Katze&source=de&target=en&api_key=web")
    assert one == {"translatedText": "a red cat"}
    two = ask(example, "/translate", {"q": ["un gato", "eine rote Katze"], "source": "auto"})
    assert two["translatedText"] == ["a cat", "a red cat"]
    assert [each["language"] for each in two["detectedLanguage"]] == ["es", "de"]


def test_documents_come_back_in_order_and_repeats_cost_nothing(example: Example) -> None:
    before = ask(example, "/savings")
    names = [f"zq{chr(97 + n // 26)}{chr(97 + n % 26)}x" for n in range(60)]
    documents = [
        {"id": name, "text": f"un gato azul {name}\nuna casa roja {name}"} for name in names
    ]
    asked = {"documents": documents, "source": "es", "team": "support"}
    said = ask(example, "/documents", asked)["documents"]
    assert [each["id"] for each in said] == names
    first, second = said[7]["text"].split("\n")
    assert first.startswith("a blue cat")
    assert second.startswith("a red house")
    assert names[7] in first
    letters = sum(len(each["text"]) - 1 for each in documents)
    after = ask(example, "/savings")
    assert after["letters"] - before["letters"] == letters
    assert after["repeated_letters"] == before["repeated_letters"]
    assert ask(example, "/documents", {**asked, "team": "sales"})["documents"] == said
    again = ask(example, "/savings")
    assert again["repeated_letters"] - after["repeated_letters"] == letters
    while not ask(example, "/savings")["machine_s"]:
        pass  # the ledger is written a moment after a task has ended


def operate(example: Example, method: str, path: str) -> Any:
    """Ask Swell as an operator does."""
    access = json.loads((example.data / "access.json").read_text())
    headers = {"authorization": f"Bearer {access['local_key']}"}
    request = urllib.request.Request(example.swell + path, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@contextmanager
def frozen(example: Example) -> Iterator[None]:
    """Nothing is translated meanwhile."""
    (worker,) = operate(example, "GET", "/v1/workers")["workers"]
    os.kill(worker["pid"], signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker["pid"], signal.SIGCONT)


def found(example: Example, text: str, state: str) -> Any:
    """Return the task for a text as soon as it is in a state."""
    while True:
        for task in operate(example, "GET", "/v1/tasks")["tasks"]:
            if (task["input"]["text"], task["state"]) == (text, state):
                return task


def test_a_paragraph_whose_task_was_canceled_is_translated_when_it_is_asked_for_again(
    example: Example,
) -> None:
    asked = {"q": "una casa azul que nadie vio", "source": "es"}
    with ThreadPoolExecutor() as threads:
        with frozen(example):
            # Its last request before is answered with the first; the next stays in the queue.
            held = threads.submit(ask, example, "/translate", {"q": "un gato que espera"})
            found(example, "un gato que espera", "running")
            said = threads.submit(ask, example, "/translate", asked)
            task = found(example, asked["q"], "queued")
            canceled = operate(example, "POST", f"/v1/tasks/{task['id']}/cancel")
            assert canceled["state"] == "canceled"
        with pytest.raises(urllib.error.HTTPError) as refused:
            said.result()
        assert held.result()["translatedText"].startswith("a cat")
    assert refused.value.code == 503
    assert "was canceled: ask again" in json.load(refused.value)["detail"]
    first = ask(example, "/translate", asked)
    assert first["translatedText"].startswith("a blue house")
    before = ask(example, "/savings")["repeated_letters"]
    assert ask(example, "/translate", asked) == first
    assert ask(example, "/savings")["repeated_letters"] - before == len(asked["q"])


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"q": "hola", "target": "fr"}, 400, "target is en"),
        ("q=hola&source=es&target=fr", 400, "target is en"),
        ({"q": "hola", "source": "xx"}, 400, "no translation from 'xx'"),
        ({"q": 7}, 400, "a text, or a list"),
        ({"documents": "hola"}, 400, '{"documents"'),
        ({"q": "x" * 1_000_001}, 413, "1,000,000 letters"),
        ([], 400, "send JSON"),
    ],
)
def test_what_cannot_be_translated_is_told_in_words(
    example: Example, body: Any, status: int, words: str
) -> None:
    path = "/documents" if "documents" in body else "/translate"
    form = body if isinstance(body, str) else ""
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(example, path, body, form)
    assert refused.value.code == status
    assert words in json.load(refused.value)["detail"]


def test_swells_own_libretranslate_has_the_companys_words_too(example: Example) -> None:
    form = f"q=la+casa+matriz&source=es&target=en&api_key={example.key}".encode()
    url = f"{example.swell}/libretranslate/translate"
    with urllib.request.urlopen(urllib.request.Request(url, form), timeout=60) as answer:
        assert json.load(answer) == {"translatedText": "the headquarters"}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The app's model, loaded as a worker does."""
    import importlib.util  # noqa: PLC0415 - only this needs it

    path = EXAMPLES / "translate" / "model.py"
    found = importlib.util.spec_from_file_location("translate_model", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_longest_word_of_a_glossary_comes_first_and_only_whole_ones_count(
    model: ModuleType,
) -> None:
    words = model.read_glossary("# ours\ncasa\thouse\ncasa matriz\theadquarters\nSegura\n")
    assert words == {"casa": "house", "casa matriz": "headquarters", "segura": "Segura"}
    parts = model.taken_apart("La Casa Matriz, casa y casamiento", words)
    assert [part for part, is_word in parts if is_word] == ["Casa Matriz", "casa"]
    assert "".join(part for part, _ in parts) == "La Casa Matriz, casa y casamiento"


def test_the_requests_of_its_page_are_answered(example: Example, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    page = ("http://127.0.0.1:8100", example.url)
    script = block("examples/translate/README.md", "curl $APP/translate", "sh")
    answers = json.JSONDecoder()
    said = reader.does(script, page).stdout
    first, at = answers.raw_decode(said)
    assert first["translatedText"] == "the blue cat of the headquarters"
    second, _ = answers.raw_decode(said[at:].lstrip())
    assert [each["text"] for each in second["documents"]] == ["a cat", "a house"]


def test_what_a_million_letters_take_is_measured_by_the_command_of_its_page(
    example: Example,
) -> None:
    script = block("examples/translate/README.md", "examples/translate/measure.py", "sh")
    page = ("http://127.0.0.1:8100", f"{example.url} --letters 20000")
    told = json.loads(Reader(ROOT).does(script, page).stdout)
    assert told["letters"] >= 20_000
