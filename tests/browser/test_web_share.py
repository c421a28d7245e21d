"""Pictures that are shown to people without a key, and are taken back."""

from typing import Any

import pytest
from app import AXE, ROOT, SIZES, App, breaches, watched
from playwright.sync_api import Browser, Page, expect
from prefix_proxy import under_prefix

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not (ROOT / "web" / "dist" / "index.html").is_file(), reason="run `make web` first"
    ),
]

needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="run `npm ci` in web/ first")

PROMPT = "a red fox under a tree"


def _call(page: Page, app: App, path: str, **asked: Any) -> Any:
    headers = {"authorization": f"Bearer {app.key}", "prefer": "wait=60"}
    answer = page.request.post(f"{app.url}{path}", headers=headers, data=asked)
    assert answer.ok, answer.text()
    return answer.json()


def _drawn(page: Page, app: App, user: str) -> str:
    asked = {"model": "swell/icons", "input": {"prompt": PROMPT, "steps": 2}, "user": user}
    task = _call(page, app, "/v1/tasks", **asked)
    assert task["state"] == "succeeded", task
    return str(task["id"])


def _is_drawn(page: Page) -> None:
    """Check that the picture of a page is there."""
    picture = page.locator("main img").first
    expect(picture).to_be_visible()
    page.wait_for_function("document.querySelector('main img').naturalWidth > 0")


def test_a_picture_is_shared_seen_without_a_key_made_ones_own_and_taken_back(
    browser: Browser, app: App
) -> None:
    context = browser.new_context(
        base_url=app.url, locale="en-GB", permissions=["clipboard-read", "clipboard-write"]
    )
    with watched(context) as page:
        _drawn(page, app, "sharer")
        app.open(page, "/library", person="sharer")
        page.locator("main li").first.get_by_role("button").click()
        page.get_by_role("button", name="Share", exact=True).click()
        dialog = page.get_by_role("dialog", name="Share")
        dialog.get_by_label("Expires").select_option("7")
        dialog.get_by_role("button", name="Create link").click()
        expect(dialog.get_by_text("Expires")).to_be_visible()
        link = dialog.get_by_label("Link").input_value()
        assert page.evaluate("navigator.clipboard.readText()") == link
        assert link.startswith(f"{app.url}/s/")

        stranger = browser.new_context(locale="en-GB", java_script_enabled=False)
        with watched(stranger) as other:
            other.goto(link)
            expect(other.get_by_role("heading", name=PROMPT)).to_be_visible()
            expect(other.locator("main img")).to_be_visible()
            expect(other.get_by_role("link", name="Try this prompt")).to_be_visible()
        stranger.close()
        stranger = browser.new_context(locale="en-GB")
        with watched(stranger) as other:
            other.goto(link)
            other.get_by_role("link", name="Try this prompt").click()
            expect(other.get_by_role("heading", name=PROMPT)).to_be_visible()
            _is_drawn(other)
            other.get_by_role("button", name="Try this prompt").click()
            expect(other.get_by_role("textbox").first).to_have_value(PROMPT)
            guest = other.evaluate("JSON.parse(localStorage.getItem('swell.key'))")
            assert guest != app.key
            headers = {"authorization": f"Bearer {guest}"}
            own = other.request.get(f"{app.url}/v1/keys/self", headers=headers).json()
            assert (own["name"], own["tasks_per_day"]) == ("guest", 3)
        stranger.close()

        with page.expect_response(lambda told: told.request.method == "POST" and told.ok):
            dialog.get_by_text("Show the prompt").click()
        assert PROMPT not in page.request.get(link).text()
        dialog.get_by_role("button", name="Revoke link").click()
        expect(dialog.get_by_role("button", name="Create link")).to_be_visible()
        assert page.request.get(link).status == 404
    context.close()


def test_all_links_are_listed_and_one_is_taken_back_there(app_page: Page, app: App) -> None:
    task_id = _drawn(app_page, app, "lister")
    link = _call(app_page, app, f"/v1/tasks/{task_id}/share")
    app.open(app_page, "/library", person="lister")
    app_page.get_by_role("button", name="Shared links").click()
    sheet = app_page.get_by_role("dialog", name="Shared links")
    rows = sheet.get_by_role("listitem").filter(has=app_page.locator(f"a[href$='{link['token']}']"))
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("never expires")
    rows.get_by_role("button", name="Revoke link").click()
    expect(rows).to_have_count(0)
    assert app_page.request.get(f"{app.url}/s/{link['token']}").status == 404


def test_below_a_prefix_a_link_leads_to_its_picture_and_into_the_app(
    browser: Browser, app: App
) -> None:
    context = browser.new_context(locale="en-GB")
    with watched(context) as page, under_prefix(app.url, "/deep/prefix") as url:
        token = _call(page, app, f"/v1/tasks/{_drawn(page, app, 'deep')}/share")["token"]
        page.goto(f"{url}/s/{token}")
        _is_drawn(page)
        page.get_by_role("link", name="Try this prompt").click()
        expect(page.get_by_role("heading", name=PROMPT)).to_be_visible()
        _is_drawn(page)
        assert page.url == f"{url}/#/s/{token}"
    context.close()


@needs_axe
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_what_is_shared_is_accessible(browser: Browser, app: App, theme: Any, size: str) -> None:
    width, height = SIZES[size]
    context = browser.new_context(
        base_url=app.url,
        viewport={"width": width, "height": height},
        color_scheme=theme,
        reduced_motion="reduce",
        locale="en-GB",
    )
    found: list[str] = []
    with watched(context) as page:
        user = f"axe-share-{theme}-{size}"
        token = _call(page, app, f"/v1/tasks/{_drawn(page, app, user)}/share")["token"]
        for path in (f"/s/{token}", "/s/nowhere", f"/#/s/{token}"):
            if path != "/s/nowhere":
                page.goto(path)
                _is_drawn(page)
            else:
                # Its status is an error to the console.
                page.set_content(page.request.get(path).text())
            found += breaches(page)
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            found += [f"{path}: {wide} px too wide"] if wide > 0 else []
        # Another hash alone would load nothing anew.
        page.goto("about:blank")
        app.open(page, "/library", theme=theme, person=user)
        page.get_by_role("button", name="Shared links").click()
        expect(page.get_by_role("dialog").get_by_role("listitem").first).to_be_visible()
        found += breaches(page)
        page.keyboard.press("Escape")
        page.locator("main li").first.get_by_role("button").click()
        page.get_by_role("button", name="Share", exact=True).click()
        expect(page.get_by_role("dialog", name="Share").get_by_label("Link")).to_be_visible()
        found += breaches(page)
    context.close()
    assert found == [], "\n".join(found)
