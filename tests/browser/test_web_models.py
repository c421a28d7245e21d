"""Models in the web app: cards, forms, code, and comparing them blind."""

import io
import os
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
from app import AXE, ROOT, SIZES, App, breaches, watched
from playwright.sync_api import Browser, FilePayload, Page, expect
from served import Served

from commandline import Swell, ready_line, stop

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not (ROOT / "web" / "dist" / "index.html").is_file(), reason="run `make web` first"
    ),
]

needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="run `npm ci` in web/ first")

_DRAWN_MS = 60_000

_POET = """
import swell

@swell.model("test/poet")
def poet(prompt: str) -> str:
    return "Ode to " + prompt
"""


def test_a_model_is_found_and_tried(app_page: Page, app: App) -> None:
    app.open(app_page, "/models")
    app_page.get_by_role("link", name="swell/icons").click()
    expect(app_page.get_by_role("heading", level=1)).to_have_text("swell/icons")
    app_page.get_by_label("Prompt").fill("a green bicycle")
    app_page.get_by_role("button", name="Run").click()
    expect(app_page.get_by_alt_text("a green bicycle")).to_be_visible(timeout=_DRAWN_MS)
    expect(app_page.get_by_role("status").get_by_text("Done")).to_be_visible()
    # What came is there again, after another tab and after a reload, and so is what was asked.
    app_page.get_by_role("tab", name="About").click()
    app_page.get_by_role("tab", name="Try it").click()
    expect(app_page.get_by_alt_text("a green bicycle")).to_be_visible()
    app_page.reload()
    expect(app_page.get_by_alt_text("a green bicycle")).to_be_visible()
    expect(app_page.get_by_label("Prompt")).to_have_value("a green bicycle")


def test_models_that_make_pictures_come_before_their_building_blocks(
    app_page: Page, app: App
) -> None:
    app.open(app_page, "/models")
    makers = app_page.get_by_role("region", name="Make pictures")
    expect(makers.get_by_role("link", name="swell/picture")).to_be_visible()
    blocks = app_page.get_by_role("region", name="Building blocks")
    for name in ("swell/safety", "swell/translate", "swell/upscale"):
        card = blocks.get_by_role("link", name=name)
        expect(card).to_be_visible()
        # A picture there would be of what the model looks at, such as a person.
        expect(card.locator("img")).to_have_count(0)
    app.open(app_page, "/models/swell/safety")
    app_page.get_by_role("tab", name="About").click()
    expect(app_page.get_by_role("heading", name="Licence")).to_be_visible()
    expect(app_page.locator("main img")).to_have_count(0)


def test_a_card_is_told_with_its_tables(app_page: Page, app: App) -> None:
    app.open(app_page, "/models")
    card = app_page.get_by_role("link", name="swell/picture")
    expect(card).to_contain_text("From a prompt in English, Spanish")
    cover = card.get_by_role("presentation")
    expect(cover).to_have_count(3)
    for picture in cover.all():
        expect(picture).to_be_visible()
        expect(picture).not_to_have_js_property("naturalWidth", 0)
    app.open(app_page, "/models/swell/icons")
    app_page.get_by_role("tab", name="About").click()
    expect(app_page.get_by_role("row", name="memory")).to_contain_text("310 MB")
    expect(app_page.get_by_role("columnheader", name="trained on")).to_be_visible()
    assert "|" not in app_page.locator(".prose").first.inner_text()


def test_several_files_are_chosen_put_in_order_and_sent(page: Page, served: Served) -> None:
    App(served.url, served.key).open(page, "/models/swell/contact-sheet")
    files = page.get_by_role("list", name="Pictures")
    # What the example brought is taken out.
    for _ in range(2):
        page.get_by_role("button", name="Remove 1", exact=True).click()
    expect(files).to_have_count(0)
    chosen: list[FilePayload] = []
    for colour in ("red", "green", "blue"):
        square = io.BytesIO()
        PIL.Image.new("RGB", (64, 64), colour).save(square, "PNG")
        chosen.append({"name": colour, "mimeType": "image/png", "buffer": square.getvalue()})
    page.locator("input[type=file]").set_input_files(chosen)
    expect(files.get_by_role("listitem")).to_have_count(3)
    sources = [each.get_attribute("src") for each in files.get_by_role("img").all()]
    page.get_by_role("button", name="Move 3 earlier").press("Enter")
    expect(page.get_by_role("button", name="Move 2 earlier")).to_be_focused()
    page.get_by_role("button", name="Remove 1", exact=True).click()
    moved = [each.get_attribute("src") for each in files.get_by_role("img").all()]
    assert moved == [sources[2], sources[1]]
    with page.expect_request(lambda each: each.url.endswith("/v1/tasks")) as sent:
        page.get_by_role("button", name="Run").click()
    asked = sent.value.post_data_json
    assert asked is not None
    assert [url.rpartition("/v1/")[2] for url in asked["input"]["images"]] == [
        str(url).rpartition("/v1/")[2] for url in moved
    ]
    done = page.get_by_role("status").get_by_text("Done")
    expect(done).to_be_visible(timeout=_DRAWN_MS)
    if AXE.is_file():
        assert breaches(page) == []


def test_an_empty_wish_is_refused_beside_its_field(browser: Browser, app: App) -> None:
    # Not a watched page: a browser tells of each answer that is an error.
    context = browser.new_context(base_url=app.url, locale="en-GB")
    page = context.new_page()
    app.open(page, "/models/swell/icons")
    page.get_by_label("Prompt").fill("")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert")).to_have_text("'prompt' is required")
    expect(page.get_by_label("Prompt")).to_be_focused()
    context.close()


def test_the_code_of_the_form_runs(app_page: Page, app: App, tmp_path: Path) -> None:
    app.open(app_page, "/models/swell/icons")
    app_page.get_by_label("Prompt").fill('it\'s a "red" fox')
    app_page.get_by_role("tab", name="Use from code").click()
    environment = {**os.environ, "SWELL_KEY": app.key}
    for client in ("curl", "Python"):
        app_page.get_by_role("button", name=client, exact=True).click()
        code = app_page.get_by_role("region", name=client).inner_text()
        program = ["bash", "-c", code] if client == "curl" else [sys.executable, "-c", code]
        done = subprocess.run(
            program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90
        )
        assert done.returncode == 0, done.stderr
        assert "succeeded" in done.stdout or ".png" in done.stdout, done.stdout
    https = app_page.get_by_text("clients require https")
    for client in ("Replicate", "OpenAI", "fal"):
        app_page.get_by_role("button", name=client, exact=True).click()
        code = app_page.get_by_role("region", name=client).inner_text()
        compile(code, client, "exec")
        assert f"{app.url}/".split("//")[1] in code
        expect(https).to_have_count(1 if client == "fal" else 0)


def test_openai_is_a_client_of_what_draws_also_before_there_is_a_prompt(
    app_page: Page, app: App
) -> None:
    app.open(app_page, "/models/swell/icons")
    app_page.get_by_label("Prompt").fill("")
    app_page.get_by_role("tab", name="Use from code").click()
    clients = app_page.get_by_role("group", name="Client").get_by_role("button")
    expect(clients.get_by_text("OpenAI")).to_be_visible()
    app.open(app_page, "/models/swell/translate")
    app_page.get_by_role("tab", name="Use from code").click()
    expect(clients.get_by_text("fal")).to_be_visible()
    expect(clients.get_by_text("OpenAI")).to_have_count(0)


def test_models_are_compared_blind_and_named_after_the_vote(app_page: Page, app: App) -> None:
    app.open(app_page, "/compare")
    for model in ("swell/icons", "swell/picture"):
        app_page.get_by_role("button", name=model).click()
    app_page.get_by_label("Prompt").fill("a lighthouse at night")
    app_page.get_by_role("button", name="Run all").click()
    vote = app_page.get_by_role("button", name="Vote")
    expect(vote).to_be_visible()
    app_page.reload()
    expect(app_page.get_by_label("Prompt")).to_have_value("a lighthouse at night")
    for model in ("swell/icons", "swell/picture"):
        expect(app_page.get_by_role("button", name=model)).to_have_attribute("aria-pressed", "true")
    expect(vote).to_be_enabled(timeout=_DRAWN_MS)
    vote.click()
    expect(app_page.get_by_role("heading", level=1)).to_have_text("a lighthouse at night")
    pictures = app_page.get_by_alt_text("Picture")
    expect(pictures).to_have_count(2)
    assert "swell/" not in app_page.locator("main").inner_html()
    # Each answer signs the addresses anew; what is seen is not loaded again.
    seen = [each.get_attribute("src") for each in pictures.all()]
    with app_page.expect_response(lambda told: "/v1/comparisons/" in told.url) as again:
        pass
    told = [cell["picture"]["url"] for cell in again.value.json()["rows"][0]["cells"]]
    assert [url.partition("/v1/")[2] for url in told] != [
        str(src).partition("/v1/")[2] for src in seen
    ]
    app_page.get_by_role("button", name="Pick 1").click()
    expect(app_page.get_by_text("You voted on every row")).to_be_visible()
    assert [each.get_attribute("src") for each in pictures.all()] == seen
    app_page.get_by_role("button", name="End voting").click()
    app_page.get_by_role("dialog").get_by_role("button", name="End voting").click()
    expect(app_page.get_by_text("your pick")).to_be_visible()
    expect(app_page.get_by_role("row", name="swell/picture")).to_be_visible()
    app_page.get_by_role("link", name="Compare").click()
    expect(app_page.get_by_role("table", name="Ratings")).to_contain_text("swell/icons")
    # What was voted on is done with.
    expect(vote).to_have_count(0)


def test_answers_in_words_are_told_as_such_and_are_no_pictures(
    browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "poet.py").write_text(_POET)
    swell = Swell(tmp_path)
    models = ("-m", str(tmp_path / "poet.py"), "-m", "demo/echo-picture")
    process = swell.start("up", "--json", "--port", "0", *models)
    context = browser.new_context(locale="en-GB")
    try:
        ready = ready_line(process, tmp_path)
        with watched(context) as page:
            App(ready["url"], ready["key"]).open(page, "/compare")
            for model in ("test/poet", "demo/echo-picture"):
                page.get_by_role("button", name=model).click()
            page.get_by_label("Prompt").fill("rings")
            page.get_by_label("Hide model names").uncheck(force=True)
            page.get_by_role("button", name="Run all").click()
            expect(page.get_by_text("Ode to rings")).to_be_visible(timeout=_DRAWN_MS)
            expect(page.get_by_alt_text("demo/echo-picture: rings")).to_be_visible(
                timeout=_DRAWN_MS
            )
            page.get_by_role("link", name="Create").first.click()
            pictures = page.get_by_role("region", name="Pictures").get_by_role("article")
            expect(pictures).to_have_count(1)
            expect(pictures.get_by_role("img", name="rings")).to_be_visible()
    finally:
        context.close()
        assert stop(process) == 0, (tmp_path / "stderr.txt").read_text()


@needs_axe
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_models_pages_are_accessible(browser: Browser, app: App, theme: str, size: str) -> None:
    width, height = SIZES[size]
    context = browser.new_context(
        base_url=app.url,
        viewport={"width": width, "height": height},
        reduced_motion="reduce",
        locale="en-GB",
    )
    with watched(context) as page:
        found = []
        app.open(page, "/models", theme=theme)
        pages = {"/models": "Models", "/models/swell/icons": "swell/icons", "/compare": "Compare"}
        for path, heading in pages.items():
            page.goto(f"{app.url}/#{path}")
            expect(page.get_by_role("heading", level=1)).to_have_text(heading)
            expect(page.get_by_text("Loading", exact=True)).to_have_count(0)
            found += [f"{path} {each}" for each in breaches(page)]
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            found += [f"{path} is {wide} px too wide"] if wide > 0 else []
        page.goto(f"{app.url}/#/models/swell/icons")
        for tab in ("Use from code", "About", "Versions"):
            page.get_by_role("tab", name=tab).click()
            expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
            expect(page.get_by_text("Loading", exact=True)).to_have_count(0)
            found += [f"{tab} {each}" for each in breaches(page)]
    context.close()
    assert found == [], "\n".join(found)
