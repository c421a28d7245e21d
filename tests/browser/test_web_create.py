"""From words to pictures in the web app, with the built-in models."""

import base64
import io
import re
import urllib.request
from pathlib import Path

import PIL.Image
import pytest
from app import AXE, ROOT, SIZES, App, breaches
from playwright.sync_api import Browser, Locator, Page, Request, Route, expect
from prefix_proxy import under_prefix
from served import Served

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not (ROOT / "web" / "dist" / "index.html").is_file(), reason="run `make web` first"
    ),
]

#: A picture takes a few seconds on two cores, and others may use them.
PATIENCE_MS = 60_000


def prompt(page: Page) -> Locator:
    return page.get_by_label("What should it show?")


def results(page: Page) -> Locator:
    return page.get_by_role("region", name="Pictures").get_by_role("article")


def made(page: Page) -> Locator:
    return page.get_by_role("button", name="Show large")


def fresh(browser: Browser, app: App, **options: object) -> Page:
    """Return Create as somebody sees it who has asked for nothing yet."""
    page = browser.new_context(locale="en-GB", **options).new_page()  # type: ignore[arg-type]
    app.open(page)
    expect(prompt(page)).to_be_visible()
    return page


def test_a_spanish_prompt_becomes_a_picture_and_says_what_was_understood(
    browser: Browser, app: App
) -> None:
    page = fresh(browser, app)
    expect(
        page.get_by_text("In English, Spanish, French, Portuguese, German, or Italian.")
    ).to_be_visible()
    prompt(page).fill("un zorro rojo en la nieve")
    page.get_by_text("Starlight").click()
    # How long it takes is told before anything is sent.
    expect(page.locator(".send p")).to_have_text(re.compile(r"\d+\sm?i?n?s?|estimating"))
    page.get_by_role("button", name="Create", exact=True).click()
    [result] = [results(page).first]
    expect(result.get_by_role("progressbar")).to_be_visible()
    picture = result.get_by_role("img", name="un zorro rojo en la nieve", exact=True)
    expect(picture).to_be_visible(timeout=PATIENCE_MS)
    assert picture.evaluate("image => image.naturalWidth") == 512
    expect(page.get_by_text("understood as “a red fox in the snow”")).to_be_visible()
    expect(result.get_by_role("progressbar")).to_have_count(0)
    page.context.close()


def test_where_no_model_translates_nobody_is_told_so(browser: Browser, served: Served) -> None:
    page = fresh(browser, App(served.url, served.key))
    expect(page.get_by_text(re.compile("In English|language"))).to_have_count(0)
    page.context.close()


def test_a_picture_is_seen_while_it_is_drawn(browser: Browser, app: App) -> None:
    page = fresh(browser, app)
    page.get_by_text("More settings").click()
    # What draws alone shows previews, and many steps leave time for them.
    page.get_by_label("Model", exact=True).select_option("swell/icons")
    page.get_by_label("Steps").fill("50")
    page.locator(".count label").nth(2).click()
    page.evaluate(
        """() => { window.seen = []; new MutationObserver(() => {
            [...document.querySelectorAll('article')].forEach((article, place) => {
                const preview = article.querySelector('img.before');
                if (!preview) return;
                const bar = article.querySelector('[role=progressbar]');
                const part = bar && Number(bar.getAttribute('aria-valuenow'));
                preview.decode().then(
                    () => window.seen.push([place, preview.naturalWidth, part]), () => 0);
            });
        }).observe(document.body, {childList: true, subtree: true, attributes: true}); }"""
    )
    prompt(page).fill("a red fox in the snow")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(made(page)).to_have_count(3, timeout=PATIENCE_MS)
    # One that stays lies under its picture, whose fading-in it is there for.
    expect(results(page).locator("img.before:not(:has(+ img.made))")).to_have_count(0)
    seen = page.evaluate("window.seen")
    assert any(part is not None for _, _, part in seen), "no preview was shown"
    assert all(width > 0 for _, width, _ in seen)
    for place in {place for place, _, _ in seen}:
        told = [part for other, _, part in seen if other == place and part is not None]
        assert told == sorted(told), "what is done only grows"
    page.context.close()


def test_pictures_on_their_way_survive_a_reload_and_one_can_be_canceled(
    browser: Browser, app: App
) -> None:
    page = fresh(browser, app)
    prompt(page).fill("a blue cat")
    page.locator(".count label").nth(3).click()
    page.keyboard.press("Control+Enter")
    expect(results(page)).to_have_count(4)
    # A preview or a stage is told of the first that is being drawn.
    expect(page.get_by_text(re.compile("Drawing|Translating|Checking")).first).to_be_visible(
        timeout=PATIENCE_MS
    )
    page.reload()
    expect(results(page)).to_have_count(4)
    page.get_by_role("button", name="My jobs").click()
    jobs = page.get_by_role("dialog", name="My jobs")
    jobs.get_by_role("button", name="Cancel", exact=True).first.click()
    expect(jobs.get_by_text("Canceled")).to_be_visible(timeout=PATIENCE_MS)
    page.keyboard.press("Escape")
    expect(made(page)).to_have_count(3, timeout=PATIENCE_MS)
    page.context.close()


def test_with_the_keyboard_alone(browser: Browser, app: App) -> None:
    page = fresh(browser, app)
    expect(prompt(page)).to_be_focused()
    page.keyboard.type("a rocket")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("in space")
    expect(prompt(page)).to_have_value("a rocket\nin space")
    page.keyboard.press("Control+a")
    page.keyboard.type("a rocket in space")
    style = page.get_by_role("group", name="Style").get_by_role("radio", checked=True)
    for _ in range(12):
        page.keyboard.press("Tab")
        if style.evaluate("each => each === document.activeElement"):
            break
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Control+Enter")
    expect(made(page)).to_have_count(1, timeout=PATIENCE_MS)
    page.keyboard.press("/")
    expect(prompt(page)).to_be_focused()
    page.keyboard.press("Enter")
    expect(made(page)).to_have_count(2, timeout=PATIENCE_MS)
    made(page).first.focus()
    page.keyboard.press("Enter")
    viewer = page.get_by_role("dialog", name="a rocket in space")
    expect(viewer).to_be_visible()
    seed = viewer.locator(".seed").inner_text()
    page.keyboard.press("ArrowRight")
    expect(viewer.locator(".seed")).not_to_have_text(seed)
    # What is told while a dialog is open is seen, heard and can be put away there.
    viewer.get_by_role("button", name="Share", exact=True).click()
    sharing = page.get_by_role("dialog", name="Share", exact=True)
    sharing.get_by_role("button", name="Create link").click()
    toast = page.locator(".toast")
    expect(toast).to_be_in_viewport(ratio=1)
    told = toast.locator("p").inner_text()
    expect(sharing.locator("[role=status][aria-live=polite]")).to_have_text(told)
    toast.get_by_role("button", name="Close").click()
    expect(toast).to_have_count(0)
    page.keyboard.press("Escape")
    expect(sharing).to_have_count(0)
    page.keyboard.press("Escape")
    expect(viewer).to_have_count(0)
    expect(made(page).first).to_be_focused()
    page.context.close()


def test_a_link_and_a_saved_picture_bring_back_how_it_was_made(
    browser: Browser, app: App, tmp_path: Path
) -> None:
    page = fresh(browser, app, permissions=["clipboard-read", "clipboard-write"])
    prompt(page).fill("castillo al atardecer")
    page.get_by_text("Ink", exact=True).click()
    page.get_by_role("button", name="Create", exact=True).click()
    expect(made(page)).to_have_count(1, timeout=PATIENCE_MS)
    page.get_by_role("button", name="More with this picture").click()
    page.get_by_role("menuitem", name="Copy a link").click()
    expect(page.locator(".toast")).to_contain_text("Link copied")
    link = page.evaluate("navigator.clipboard.readText()")
    page.get_by_role("button", name="More with this picture").click()
    with page.expect_download() as told:
        page.get_by_role("menuitem", name="Save").click()
    saved = tmp_path / told.value.suggested_filename
    told.value.save_as(saved)
    renamed = saved.rename(tmp_path / f"holiday{saved.suffix}")
    first = picture_of(page)

    other = fresh(browser, app)
    assert prompt(other).input_value() == ""
    other.goto("about:blank")
    other.goto(link)
    expect(prompt(other)).to_have_value("castillo al atardecer")
    expect(other.get_by_role("radio", name="Ink", exact=True)).to_be_checked()
    other.get_by_role("button", name="Create", exact=True).click()
    expect(made(other)).to_have_count(1, timeout=PATIENCE_MS)
    assert picture_of(other) == first, "the same seed and settings give the same picture"

    # The picture itself tells what was drawn: the words as they were understood.
    third = fresh(browser, app)
    third.get_by_text("More settings").click()
    third.get_by_label("Reuse settings of a picture").set_input_files(renamed)
    expect(prompt(third)).to_have_value("castle at sunset")
    expect(third.get_by_role("radio", name="Ink", exact=True)).to_be_checked()
    for each in (page, other, third):
        each.context.close()


def picture_of(page: Page) -> bytes:
    url = made(page).first.get_by_role("img").get_attribute("src")
    assert url is not None
    with urllib.request.urlopen(url, timeout=30) as answer:
        pixels: bytes = answer.read()
    return pixels


def test_a_picture_is_varied_remixed_and_enlarged(browser: Browser, app: App) -> None:
    page = fresh(browser, app)
    prompt(page).fill("a red apple")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(made(page)).to_have_count(1, timeout=PATIENCE_MS)
    prompt(page).fill("something else")
    page.get_by_role("button", name="Vary").click()
    expect(made(page)).to_have_count(2, timeout=PATIENCE_MS)
    expect(prompt(page)).to_have_value("something else")
    page.get_by_role("button", name="Remix").first.click()
    expect(prompt(page)).to_have_value("a red apple")
    expect(prompt(page)).to_be_focused()
    page.get_by_role("button", name="More with this picture").first.click()
    with page.expect_response(re.compile(r"/v1/tasks$")) as told:
        page.get_by_role("menuitem", name="Enlarge").click()
    task = told.value.json()
    assert (task["model"], task["input"]["factor"]) == ("swell/upscale", 2)
    # Whether the model can is tested elsewhere, and takes long.
    results(page).first.get_by_role("button", name="Cancel").click()
    expect(results(page).first.get_by_text("Canceled")).to_be_visible(timeout=PATIENCE_MS)
    # Again it is made larger, and not drawn anew.
    with page.expect_response(re.compile(r"/v1/tasks/[^/]+/retry$")) as told:
        results(page).first.get_by_role("button", name="Try again").click()
    again = told.value.json()
    assert (again["model"], again["input"]["factor"]) == ("swell/upscale", 2)
    results(page).first.get_by_role("button", name="Cancel").click()
    expect(results(page).first.get_by_text("Canceled")).to_be_visible(timeout=PATIENCE_MS)
    page.context.close()


def test_the_note_in_a_file_is_read_where_its_task_was_erased_and_a_file_twice(
    browser: Browser, app: App, tmp_path: Path
) -> None:
    page = fresh(browser, app)
    headers = {"authorization": f"Bearer {app.key}"}
    asked = {"model": "swell/icons", "input": {"prompt": "a green leaf"}, "seed": 5}
    task = page.request.post(
        f"{app.url}/v1/tasks", headers={**headers, "prefer": "wait=60"}, data=asked
    ).json()
    assert task["state"] == "succeeded", task
    # Its name leads to a task of which nothing is left.
    saved = tmp_path / f"swell-{task['id']}.png"
    saved.write_bytes(page.request.get(task["artifacts"][0]["url"], headers=headers).body())
    erased = page.request.delete(f"{app.url}/v1/tasks/{task['id']}", headers=headers)
    assert erased.ok, erased.text()
    page.get_by_text("More settings").click()
    field = page.get_by_label("Reuse settings of a picture")
    for _ in range(2):
        prompt(page).fill("")
        field.set_input_files(saved)
        expect(prompt(page)).to_have_value("a green leaf")
        expect(page.get_by_label("Seed")).to_have_value("5")
        assert field.input_value() == ""
    page.context.close()


def test_a_picture_that_was_made_larger_has_the_seed_of_the_one_that_was_drawn(
    browser: Browser, app: App
) -> None:
    page = fresh(browser, app)
    person = page.evaluate("JSON.parse(localStorage.getItem('swell.person'))")
    small = io.BytesIO()
    PIL.Image.new("RGB", (32, 32), "red").save(small, "PNG")
    image = f"data:image/png;base64,{base64.b64encode(small.getvalue()).decode()}"
    # As the app asks for it, of a picture that is small.
    asked = {
        "model": "swell/upscale",
        "input": {"image": image, "factor": 2},
        "metadata": {"create": {"prompt": "a red square", "seed": 7}, "enlarged": "one"},
        "user": person,
    }
    headers = {"authorization": f"Bearer {app.key}", "prefer": "wait=60"}
    task = page.request.post(f"{app.url}/v1/tasks", headers=headers, data=asked).json()
    assert task["state"] == "succeeded", task
    assert task["seed"] != 7
    page.reload()
    made(page).click()
    viewer = page.get_by_role("dialog", name="a red square")
    expect(viewer.locator(".seed")).to_have_text("7")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="More with this picture").click()
    page.get_by_role("menuitem", name="Reuse settings and seed").click()
    expect(prompt(page)).to_have_value("a red square")
    page.get_by_text("More settings").click()
    expect(page.get_by_label("Seed")).to_have_value("7")
    page.context.close()


def test_what_is_refused_is_told_beside_the_button_and_nothing_is_lost(
    browser: Browser, app: App
) -> None:
    page = fresh(browser, app)
    page.route(
        "**/v1/tasks",
        lambda route: refuse(route) if route.request.method == "POST" else route.continue_(),
    )
    prompt(page).fill("a red fox")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("the queue is full")
    expect(prompt(page)).to_have_value("a red fox")
    page.context.close()


def refuse(route: Route) -> None:
    problem = {"code": "would_expire", "title": "Too late", "detail": "the queue is full"}
    route.fulfill(status=409, json=problem)


def test_what_is_pressed_again_after_a_lost_answer_is_not_drawn_twice(
    browser: Browser, app: App
) -> None:
    page = fresh(browser, app)
    sent: list[str] = []

    def lose(route: Route) -> None:
        """The second answer is lost on its way; the server has it."""
        if route.request.method != "POST":
            return route.continue_()
        sent.append(route.request.headers["idempotency-key"])
        answer = route.fetch()
        return route.abort() if len(sent) == 2 else route.fulfill(response=answer)

    page.route("**/v1/tasks", lose)
    prompt(page).fill("a red balloon")
    page.locator(".count label").nth(2).click()
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("reach the server")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(made(page)).to_have_count(3, timeout=PATIENCE_MS)
    assert len(sent) == 4
    assert sent[1] == sent[2], "the key of what was not answered is sent again"
    assert len(set(sent)) == 3
    page.reload()
    expect(made(page)).to_have_count(3)
    page.context.close()


def test_a_tab_has_one_stream_however_much_is_under_way(browser: Browser, app: App) -> None:
    page = fresh(browser, app)
    other = page.context.new_page()
    app.open(other)
    most = {page: 0, other: 0}
    for each in most:
        streams: set[Request] = set()

        def begun(request: Request, each: Page = each, now: set[Request] = streams) -> None:
            if request.url.endswith("/events"):
                now.add(request)
                most[each] = max(most[each], len(now))

        def ended(request: Request, now: set[Request] = streams) -> None:
            now.discard(request)

        each.on("request", begun)
        each.on("requestfinished", ended)
        each.on("requestfailed", ended)
    prompt(page).fill("a blue whale")
    page.locator(".count label").nth(3).click()
    page.get_by_role("button", name="Create", exact=True).click()
    expect(results(page)).to_have_count(4)
    other.reload()
    for each in (page, other):
        expect(made(each)).to_have_count(4, timeout=PATIENCE_MS)
    # One that ends may still be told of while the next begins; there were three.
    assert max(most.values()) <= 2, most
    page.context.close()


def test_a_job_is_found_again_after_a_network_that_was_gone(browser: Browser, app: App) -> None:
    page = fresh(browser, app)
    one = re.compile(r"/v1/tasks/[^/?]+(/events)?$")
    page.route(one, lambda route: route.abort())
    prompt(page).fill("a white horse")
    failed = page.expect_event("requestfailed")
    with failed, page.expect_response(re.compile(r"/v1/tasks$")) as told:
        page.get_by_role("button", name="Create", exact=True).click()
    task = told.value.json()["id"]
    expect(results(page)).to_have_count(1)
    page.unroute(one)
    expect(made(page)).to_have_count(1, timeout=PATIENCE_MS)
    # One that the server does not know any more is told of, and goes.
    page.route(one, lambda route: route.fulfill(status=404, json={"title": "No such task"}))
    page.get_by_role("button", name="Vary").click()
    expect(page.locator(".toast")).to_contain_text("“a white horse” is not known")
    expect(results(page)).to_have_count(1)
    assert task in page.get_by_role("region", name="Pictures").inner_html()
    page.context.close()


def test_the_estimate_is_of_all_that_is_asked_for(browser: Browser, app: App) -> None:
    page = browser.new_context(locale="en-GB").new_page()
    known = {"low": 10.0, "median": 10.0, "high": 10.0}

    def measured(route: Route) -> None:
        """As after many pictures: each takes ten seconds."""
        told = route.fetch().json()
        if "models" in told:
            for model in told["models"]:
                model["service_s"] = known
        else:
            assert told["is_accepted"] is True
            told.update(finish_s=known, position=1, workers=1)
        route.fulfill(json=told)

    page.route(re.compile("/v1/(models|estimate)$"), measured)
    app.open(page)
    page.locator(".count label").nth(3).click()
    prompt(page).fill("a red fox")
    expect(page.locator(".send p")).to_have_text("about 40\u00a0s")
    page.locator(".count label").nth(0).click()
    expect(page.locator(".send p")).to_have_text("about 10\u00a0s")
    # A model that takes several at once is asked for all of them.
    page.get_by_text("More settings").click()

    def is_of_several(request: Request) -> bool:
        # One of the model before may still be under way.
        return request.url.endswith("/v1/estimate") and "count" in (request.post_data_json or {})

    with page.expect_request(is_of_several) as asked:
        page.get_by_label("Model").select_option("swell/icons")
        page.locator(".count label").nth(1).click()
    assert asked.value.post_data_json["count"] in {1, 2}  # type: ignore[index]
    page.context.close()


def test_a_model_that_comes_while_one_waits_is_seen(browser: Browser, app: App) -> None:
    page = browser.new_context(locale="en-GB").new_page()
    page.route("**/v1/models", lambda route: route.fulfill(json={"models": []}))
    app.open(page)
    expect(page.get_by_text("No image model yet")).to_be_visible()
    page.unroute("**/v1/models")
    expect(prompt(page)).to_be_visible()
    expect(page.get_by_role("group", name="Style")).to_be_visible()
    page.context.close()


def test_what_was_typed_is_told_apart_from_the_words_of_a_style(browser: Browser, app: App) -> None:
    page = fresh(browser, app)
    person = page.evaluate("JSON.parse(localStorage.getItem('swell.person'))")
    headers = {"authorization": f"Bearer {app.key}"}
    woodcut = {
        "name": "woodcut",
        "label": "Woodcut",
        "labels": {},
        "prompt": "a woodcut of {prompt}",
        "input": {},
        "models": ["swell/picture"],
        "picture": None,
    }

    def and_one(route: Route) -> None:
        """What an operator has added to the styles that come with Swell."""
        told = route.fetch().json()
        route.fulfill(json={**told, "styles": [*told["styles"], woodcut]})

    page.route("**/v1/styles", and_one)
    prompted = {"prompt": "a woodcut of a small boat"}
    asked = {"model": "swell/picture", "input": prompted, "user": person}
    task = page.request.post(
        f"{app.url}/v1/tasks", headers={**headers, "prefer": "wait=60"}, data=asked
    ).json()
    assert task["state"] == "succeeded", task
    page.reload()
    expect(made(page)).to_have_count(1)
    page.get_by_role("button", name="Remix").click()
    expect(prompt(page)).to_have_value("a small boat")
    expect(page.get_by_role("radio", name="Woodcut", exact=True)).to_be_checked()
    page.context.close()


def test_settings_of_a_model_that_is_gone_are_taken_and_told_of(browser: Browser, app: App) -> None:
    page = fresh(browser, app)
    recipe = base64.urlsafe_b64encode(b'{"prompt": "a cup", "model": "no/such"}').decode()
    page.goto(f"{app.url}/#/?recipe={recipe.rstrip('=')}")
    expect(prompt(page)).to_have_value("a cup")
    expect(page.get_by_text("no/such is no longer served here.").first).to_be_visible()
    page.context.close()


def test_what_was_chosen_is_there_after_another_page_and_after_a_reload(
    browser: Browser, app: App
) -> None:
    page = fresh(browser, app)
    styles = page.get_by_role("group", name="Style").get_by_role("radio")
    styles.nth(2).check(force=True)
    page.locator(".count label").nth(2).click()
    page.get_by_text("More settings").click()
    page.get_by_label("Seed").fill("77")
    away_and_back(page)
    expect(styles.nth(2)).to_be_checked()
    page.get_by_text("More settings").click()
    page.get_by_label("Model", exact=True).select_option("swell/icons")
    page.get_by_label("Steps").fill("21")

    def is_there() -> None:
        expect(page.locator(".count input").nth(2)).to_be_checked()
        page.get_by_text("More settings").click()
        expect(page.get_by_label("Model", exact=True)).to_have_value("swell/icons")
        expect(page.get_by_label("Seed")).to_have_value("77")
        expect(page.get_by_label("Steps")).to_have_value("21")

    away_and_back(page)
    is_there()
    page.reload()
    is_there()
    page.context.close()


def away_and_back(page: Page) -> None:
    page.get_by_role("link", name="Library").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Library")
    page.get_by_role("link", name="Create").first.click()
    expect(prompt(page)).to_be_visible()


def test_whoever_signs_out_leaves_nothing_behind(browser: Browser, app: App) -> None:
    page = fresh(browser, app)
    person = page.evaluate("localStorage.getItem('swell.person')")
    prompt(page).fill("a secret wish")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(made(page)).to_have_count(1, timeout=PATIENCE_MS)
    page.locator(".tools .opener").last.click()
    page.get_by_role("menuitem", name="Sign out").click()
    page.get_by_label("Key").fill(app.key)
    assert "secret" not in page.evaluate("JSON.stringify(localStorage)")
    assert person not in page.evaluate("JSON.stringify(localStorage)")
    page.get_by_role("button", name="Sign in").click()
    expect(prompt(page)).to_have_value("")
    expect(results(page)).to_have_count(0)
    page.context.close()


def test_on_a_phone_the_prompt_stays_above_the_keyboard_and_at_hand_below_pictures(
    browser: Browser, app: App
) -> None:
    page = fresh(
        browser, app, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True
    )
    button = page.get_by_role("button", name="Create", exact=True)
    tabs = page.locator("nav.tabs")
    expect(tabs).to_be_in_viewport(ratio=1)
    prompt(page).tap()
    # A keyboard that opens makes the window smaller.
    page.set_viewport_size({"width": 390, "height": 480})
    expect(tabs).to_be_hidden()
    for each in (prompt(page), button):
        expect(each).to_be_in_viewport(ratio=1)
    below = page.locator(".bar").evaluate(
        "each => innerHeight - each.getBoundingClientRect().bottom"
    )
    assert below == 0
    page.keyboard.type("a green tree")
    page.keyboard.press("Enter")
    expect(results(page)).to_have_count(1)
    prompt(page).blur()
    page.set_viewport_size({"width": 390, "height": 844})
    expect(tabs).to_be_in_viewport(ratio=1)
    # It stays there beside what was made, and covers nothing at the end of the page.
    expect(made(page)).to_have_count(1, timeout=PATIENCE_MS)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    last = page.get_by_role("button", name="Serve SDXL")
    for each in (prompt(page), button, last):
        expect(each).to_be_in_viewport(ratio=1)
    more = page.get_by_role("button", name="More with this picture")
    more.tap()
    expect(page.get_by_role("menu")).to_be_visible()
    page.context.close()


def test_another_key_begins_with_nothing_of_the_one_before(browser: Browser, app: App) -> None:
    page = fresh(browser, app)
    person = page.evaluate("localStorage.getItem('swell.person')")
    headers = {"authorization": f"Bearer {app.key}"}
    other = page.request.post(
        f"{app.url}/v1/keys", headers=headers, data={"name": "other", "scopes": ["client"]}
    ).json()["key"]
    prompt(page).fill("a secret wish")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(results(page)).to_have_count(1)
    page.goto(f"{app.url}/#/key/{other}")
    page.get_by_role("button", name="Switch").click()
    expect(page.get_by_role("heading", name="Operations")).to_have_count(0)
    expect(prompt(page)).to_have_value("")
    expect(results(page)).to_have_count(0)
    kept = page.evaluate("JSON.stringify(localStorage)")
    assert "secret" not in kept
    assert person not in kept
    page.context.close()


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_a_picture_comes_in_over_its_preview_softly_unless_less_motion_is_wanted(
    browser: Browser, app: App, motion: str
) -> None:
    page = fresh(browser, app, reduced_motion=motion)
    page.evaluate(
        """() => { window.seen = []; new MutationObserver(() => {
            for (const each of document.querySelectorAll('article .picture')) {
                const [before, made] = [each.querySelector('.before'), each.querySelector('.made')];
                if (before && made) window.seen.push(getComputedStyle(made).transitionDuration);
            }
        }).observe(document.body, {childList: true, subtree: true}); }"""
    )
    # A preview comes 0.4 s after the one before, or later where making one is slow: many steps
    # leave time for them, and more is asked for until one has come.
    page.get_by_text("More settings").click()
    page.get_by_label("Model", exact=True).select_option("swell/icons")
    page.get_by_label("Steps").fill("50")
    page.locator(".count label").last.click()
    pictures, drawn = made(page).count(), 0
    while drawn < 24 and not page.evaluate("window.seen.length"):
        drawn += 4
        prompt(page).fill(f"a yellow lemon {drawn}")
        page.get_by_role("button", name="Create", exact=True).click()
        expect(made(page)).to_have_count(pictures + drawn, timeout=PATIENCE_MS)
    for picture in page.locator("article .made").all():
        expect(picture).to_have_css("opacity", "1")
    seen = set(page.evaluate("window.seen"))
    assert seen == {"0.32s" if motion == "no-preference" else "1e-05s"}
    # What lay beneath is not seen, nor heard, any more.
    for before in page.locator("article .before").all():
        expect(before).to_have_css("opacity", "0")
        expect(before).to_have_attribute("alt", "")
    page.context.close()


@pytest.mark.parametrize("size", [(1280, 860), (390, 844)], ids=str)
def test_more_settings_unfold_in_view_above_the_button(
    browser: Browser, app: App, size: tuple[int, int]
) -> None:
    width, height = size
    page = fresh(browser, app, viewport={"width": width, "height": height}, reduced_motion="reduce")
    expect(page.get_by_text("Pictures", exact=True)).to_be_visible()
    page.get_by_text("More settings").click()
    expect(page.get_by_label("Seed", exact=True)).to_be_in_viewport(ratio=1)
    last = page.get_by_text("Reuse settings of a picture")
    expect(last).to_be_in_viewport(ratio=1)
    # Nothing lies over it.
    assert last.evaluate(
        "each => { const { left, bottom } = each.getBoundingClientRect();"
        " return each.contains(document.elementFromPoint(left + 20, bottom - 4)); }"
    )
    page.context.close()


def test_on_a_phone_it_fits_and_the_button_is_at_hand(browser: Browser, app: App) -> None:
    page = fresh(
        browser, app, viewport={"width": 390, "height": 664}, is_mobile=True, has_touch=True
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    button = page.get_by_role("button", name="Create", exact=True)
    expect(button).to_be_in_viewport(ratio=1)
    prompt(page).fill("a green tree")
    button.tap()
    expect(made(page)).to_have_count(1, timeout=PATIENCE_MS)
    expect(results(page).first).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.context.close()


def test_on_a_phone_what_the_model_can_do_and_does_not_know_is_in_view(
    browser: Browser, app: App
) -> None:
    page = fresh(
        browser, app, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True
    )
    expect(page.get_by_text("Demo model: one thing at a time.")).to_be_in_viewport(ratio=1)
    languages = page.get_by_text("In English, Spanish, French")
    expect(languages).to_be_in_viewport(ratio=1)
    assert languages.evaluate("each => each.scrollWidth <= each.clientWidth")
    for number, words in enumerate(("a rocket", "a trombone", "a green frog"), start=1):
        prompt(page).fill(words)
        prompt(page).press("Enter")
        expect(made(page)).to_have_count(number, timeout=PATIENCE_MS)
        expect(results(page).first).to_be_in_viewport(ratio=1)
        if words == "a trombone":
            warning = page.locator(".group.newest .warning")
            expect(warning).to_be_in_viewport(ratio=1)
            expect(warning.get_by_role("button").first).to_be_in_viewport(ratio=1)
    page.context.close()


@pytest.mark.parametrize("size", [(390, 664), (360, 640), (1440, 900)], ids=str)
def test_each_new_picture_is_in_view_without_a_scroll(
    browser: Browser, app: App, size: tuple[int, int]
) -> None:
    page = fresh(browser, app, viewport={"width": size[0], "height": size[1]})
    prompt(page).focus()
    for number, words in enumerate(("a green frog", "a blue whale", "a red apple"), start=1):
        page.keyboard.type(words)
        page.keyboard.press("Enter")
        expect(made(page)).to_have_count(number, timeout=PATIENCE_MS)
        expect(results(page).first).to_have_attribute("aria-label", words)
        expect(results(page).first).to_be_in_viewport(ratio=1)
        # What is typed next takes the place of what was asked for.
        expect(prompt(page)).to_have_value(words)
    page.context.close()


#: A Chromium without a window never asks: the permission is one that it would ask for.
_ASKS = """
window.notes = [];
window.Notification = class {
  static permission = "default";
  static async requestPermission() { return (this.permission = "granted"); }
  constructor(title, { body }) { window.notes.push([title, body]); }
};
Object.defineProperty(document, "hidden", { get: () => true });
"""


def test_who_wants_to_know_is_notified_when_all_is_done_in_a_tab_that_is_hidden(
    browser: Browser, app: App
) -> None:
    page = fresh(browser, app)
    page.add_init_script(_ASKS)
    page.reload()
    page.locator(".count label").nth(3).click()
    prompt(page).fill("a rocket")
    prompt(page).press("Enter")
    page.get_by_role("button", name="My jobs").click()
    jobs = page.get_by_role("dialog", name="My jobs")
    ask = jobs.get_by_role("button", name="Notify me when done")
    ask.click()
    expect(ask).to_have_count(0)
    page.keyboard.press("Escape")
    expect(made(page)).to_have_count(4, timeout=PATIENCE_MS)
    page.wait_for_function("window.notes.length > 0")
    assert page.evaluate("window.notes") == [["Done", "a rocket"]]
    page.context.close()


def test_four_pictures_are_painted_in_four_styles_unless_one_is_chosen(
    browser: Browser, app: App
) -> None:
    page = fresh(browser, app)
    expect(page.get_by_role("radio", name="Varied", exact=True)).to_be_checked()
    page.locator(".count label").nth(3).click()
    with page.expect_request(re.compile(r"/v1/tasks")) as asked:
        prompt(page).fill("a rocket")
        prompt(page).press("Enter")
    assert "varied" in (asked.value.post_data or "")
    expect(made(page)).to_have_count(4, timeout=PATIENCE_MS)
    page.get_by_role("button", name="Remix").first.click()
    expect(page.get_by_role("radio", name="Varied", exact=True)).to_be_checked()
    page.context.close()


def test_a_tap_on_the_wall_fills_the_form_and_asks_for_a_picture_like_it(
    browser: Browser, app: App
) -> None:
    page = fresh(browser, app)
    wall = page.get_by_role("button", name="Make one like this")
    expect(wall).to_have_count(12)
    with page.expect_response(re.compile(r"/v1/tasks$")) as told:
        wall.first.click()
    task = told.value.json()
    assert task["input"] == {"prompt": "a bear in the snow", "art": "pastel", "large": False}
    expect(prompt(page)).to_have_value("a bear in the snow")
    expect(page.get_by_role("radio", name="Pastel", exact=True)).to_be_checked()
    # The picture of the wall comes of its seed; what is asked for next has another.
    expect(made(page)).to_have_count(1, timeout=PATIENCE_MS)
    page.get_by_text("More settings").click()
    expect(page.get_by_label("Seed")).to_have_value("")
    with page.expect_response(re.compile(r"/v1/tasks$")) as told:
        page.get_by_role("button", name="Surprise me").first.click()
    assert told.value.json()["input"]["prompt"] == prompt(page).input_value()
    page.context.close()


def test_an_empty_prompt_asks_for_the_example_that_the_field_shows(
    browser: Browser, app: App
) -> None:
    page = fresh(browser, app)
    page.get_by_role("button", name="Create", exact=True).click()
    expect(prompt(page)).to_have_value("a red fox in the snow")
    expect(results(page)).to_have_count(1)
    page.context.close()


def test_pictures_that_were_asked_for_together_have_their_words_once(
    browser: Browser, app: App
) -> None:
    page = fresh(browser, app)
    prompt(page).fill("a blue cup")
    page.locator(".count label").nth(1).click()
    page.get_by_role("button", name="Create", exact=True).click()
    expect(made(page)).to_have_count(2, timeout=PATIENCE_MS)
    region = page.get_by_role("region", name="Pictures")
    expect(region.get_by_text("a blue cup", exact=True)).to_have_count(1)
    expect(region.get_by_role("button", name="Remix")).to_have_count(1)
    page.context.close()


def test_a_refused_prompt_is_a_small_card_that_names_the_word_and_offers_to_edit_it(
    browser: Browser, app: App
) -> None:
    page = fresh(browser, app)
    prompt(page).fill("a naked woman")
    page.get_by_role("button", name="Create", exact=True).click()
    card = results(page).first
    expect(card.get_by_text("Not allowed here: “naked”")).to_be_visible(timeout=PATIENCE_MS)
    expect(card.get_by_role("button", name="Try again")).to_have_count(0)
    prompt(page).fill("")
    card.get_by_role("button", name="Edit prompt").click()
    expect(prompt(page)).to_have_value("a naked woman")
    expect(prompt(page)).to_be_focused()
    page.context.close()


def test_what_a_model_warns_of_is_shown_with_prompts_that_work(browser: Browser, app: App) -> None:
    page = fresh(browser, app)
    warning = {
        "code": "unknown_subject",
        "message": "The model does not know “astronaut”.",
        "suggestions": ["a rocket", "a robot"],
    }
    person = page.evaluate("JSON.parse(localStorage.getItem('swell.person'))")
    headers = {"authorization": f"Bearer {app.key}", "prefer": "wait=60"}
    asked = {"model": "swell/picture", "input": {"prompt": "an astronaut"}, "user": person}
    assert page.request.post(f"{app.url}/v1/tasks", headers=headers, data=asked).ok

    def warn(route: Route) -> None:
        told = route.fetch().json()
        for task in told["tasks"]:
            task["warnings"] = [warning]
        route.fulfill(json=told)

    page.route(re.compile(r"/v1/tasks\?"), warn)
    page.reload()
    expect(page.get_by_text("The model does not know “astronaut”.")).to_be_visible()
    with page.expect_request(
        lambda request: request.method == "POST" and request.url.endswith("/v1/tasks")
    ) as sent:
        page.get_by_role("button", name="a robot", exact=True).click()
    assert sent.value.post_data_json["input"]["prompt"] == "a robot"
    expect(prompt(page)).to_have_value("a robot")
    page.context.close()


def test_all_styles_are_a_tap_away(browser: Browser, app: App) -> None:
    page = fresh(browser, app, viewport={"width": 390, "height": 844}, has_touch=True)
    page.get_by_role("button", name=re.compile(r"All \d+")).click()
    styles = page.get_by_role("dialog", name="Style")
    styles.get_by_text("Weave").click()
    expect(styles).to_have_count(0)
    expect(page.get_by_role("radio", name="Weave", exact=True)).to_be_checked()
    page.context.close()


def test_a_model_without_variety_offers_neither_several_pictures_nor_variations(
    browser: Browser, app: App
) -> None:
    page = browser.new_context(locale="en-GB").new_page()

    def alike(route: Route) -> None:
        told = route.fetch().json()
        for model in told["models"]:
            model["input_schema"]["x-ui"] = {"variety": False}
        route.fulfill(json=told)

    page.route("**/v1/models", alike)
    app.open(page)
    expect(prompt(page)).to_be_visible()
    expect(page.locator(".count")).to_have_count(0)
    prompt(page).fill("a green leaf")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(made(page)).to_have_count(1, timeout=PATIENCE_MS)
    expect(page.get_by_role("button", name="Remix")).to_be_visible()
    expect(page.get_by_role("button", name="Vary")).to_have_count(0)
    page.context.close()


@pytest.mark.skipif(not AXE.is_file(), reason="run `npm ci` in web/ first")
def test_it_is_accessible_empty_and_with_pictures(browser: Browser, app: App) -> None:
    page = fresh(browser, app, reduced_motion="reduce")
    prompt(page).fill("a yellow star")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(made(page)).to_have_count(1, timeout=PATIENCE_MS)
    page.get_by_text("More settings").click()
    for size in SIZES.values():
        page.set_viewport_size({"width": size[0], "height": size[1]})
        for theme in ("light", "dark"):
            page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
            # Colours change with the next frame, some by a transition.
            page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
            page.evaluate(
                """Promise.allSettled(document.getAnimations()
                    .filter(each => each instanceof CSSTransition).map(each => each.finished))"""
            )
            assert breaches(page) == []
    made(page).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert breaches(page) == []
    page.context.close()


def test_under_a_deep_prefix_everything_is_found_below_it(browser: Browser, app: App) -> None:
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with under_prefix(app.url, "/deep/prefix") as url:
        page.goto(f"{url}/#/key/{app.key}")
        prompt(page).fill("a purple house")
        page.get_by_role("button", name="Create", exact=True).click()
        picture = made(page).first.get_by_role("img")
        expect(picture).to_be_visible(timeout=PATIENCE_MS)
        page.wait_for_function(
            """() => [...document.querySelectorAll('.results img, .tray label:nth-child(2) img')]
                .every(each => each.complete && each.naturalWidth > 0)"""
        )
        elsewhere = [each for each in asked if not each.startswith((f"{url}/", "data:", "blob:"))]
        assert elsewhere == []
        # What another Swell of this origin keeps stays where somebody signs out here.
        page.evaluate("localStorage.setItem('swell.key', JSON.stringify('of the root'))")
        page.reload()
        expect(made(page).first).to_be_visible()
        page.locator(".tools .opener").last.click()
        page.get_by_role("menuitem", name="Sign out").click()
        expect(page.get_by_label("Key")).to_be_visible()
        kept = page.evaluate("Object.values(localStorage)")
        assert '"of the root"' in kept
        assert f'"{app.key}"' not in kept
        context.close()


def test_below_a_prefix_what_was_kept_before_is_had_again_with_the_same_key(
    browser: Browser, app: App
) -> None:
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    page.add_init_script(
        "if (!sessionStorage.seeded) { sessionStorage.seeded = 1; "
        f"localStorage.setItem('swell.key', '\"{app.key}\"'); "
        "localStorage.setItem('swell.draft', '\"a wish of last week\"'); }"
    )
    with under_prefix(app.url, "/older") as url:
        page.goto(f"{url}/#/key/{app.key}")
        expect(prompt(page)).to_have_value("a wish of last week")
        assert page.evaluate("localStorage.getItem('swell.key')") is None
        context.close()
