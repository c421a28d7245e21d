"""A sheet of a comparison is voted on in a browser, with the server there and without it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from commandline import Swell, ready_line, stop

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def swell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swell]:
    swell = Swell(tmp_path_factory.mktemp("sheet"))
    process = swell.start(
        "up", "--json", "--port", "0", "-m", "demo/echo-picture", "-m", "swell/icons"
    )
    try:
        ready_line(process, swell.folder)
        yield swell
    finally:
        assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()


@pytest.fixture
def made(swell: Swell) -> dict[str, Any]:
    (swell.folder / "p.txt").write_text("a red fox\n<b>a blue cat</b>\nan anchor\n")
    models = ("demo/echo-picture", "swell/icons")
    found: dict[str, Any] = swell.json("models", "compare", *models, "--prompts", "p.txt")
    return found


@pytest.fixture
def sheet(browser: Browser, swell: Swell, made: dict[str, Any]) -> Iterator[Page]:
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    page.goto((swell.folder / made["sheet"]).as_uri())
    yield page
    context.close()


def test_votes_by_mouse_and_keyboard_are_kept_by_the_server(
    browser: Browser, swell: Swell, made: dict[str, Any], sheet: Page
) -> None:
    wrong: list[str] = []
    sheet.on("pageerror", lambda error: wrong.append(str(error)))
    sheet.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    expect(sheet.locator("section")).to_have_count(3)
    expect(sheet.locator("section h2").nth(1)).to_have_text("<b>a blue cat</b>")
    widths = sheet.evaluate("[...document.images].map(each => each.naturalWidth)")
    assert len(widths) == 6
    assert min(widths) > 0
    sheet.get_by_label("Your name").fill("anna")
    sheet.get_by_label("Your name").blur()
    sheet.get_by_role("button", name="2 is better").first.click()
    sheet.keyboard.press("t")
    sheet.keyboard.press("1")
    expect(sheet.get_by_role("status")).to_have_text(
        "3 of 3 rows voted. All votes are kept by the server."
    )
    expect(sheet.get_by_role("button", name="2 is better", pressed=True)).to_have_count(1)
    sheet.reload()
    expect(sheet.get_by_role("status")).to_contain_text("3 of 3 rows voted")
    assert wrong == []
    # Somebody else types the same name.
    with browser.new_context() as context:
        other = context.new_page()
        other.goto(sheet.url)
        other.get_by_label("Your name").fill("anna")
        other.get_by_label("Your name").blur()
        other.keyboard.press("1")
        expect(other.get_by_role("status")).to_contain_text("All votes are kept by the server.")
    told = swell.json("models", "votes", made["id"], "--close")
    assert told["votes"] == 4
    assert sum(each["wins"] for each in told["models"]) == 3
    assert [each["ties"] for each in told["models"]] == [1, 1]


def test_without_the_server_votes_are_saved_as_a_file(
    swell: Swell, made: dict[str, Any], sheet: Page, tmp_path: Path
) -> None:
    sheet.context.set_offline(True)
    sheet.keyboard.press("1")
    sheet.keyboard.press("s")
    sheet.keyboard.press("2")
    expect(sheet.get_by_role("status")).to_contain_text("2 of them are in this browser only")
    with sheet.expect_download() as saving:
        sheet.get_by_role("button", name="Save votes as a file").click()
    path = tmp_path / "votes.json"
    saving.value.save_as(path)
    votes = json.loads(path.read_text())["votes"]
    assert votes == [{"row": 0, "winner": 1}, {"row": 2, "winner": 2}]
    assert "2 votes of voter-" in swell.ok("models", "votes", "--file", str(path))
    assert swell.json("models", "votes", made["id"], "--close")["votes"] == 2
