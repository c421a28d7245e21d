"""The pages of `swell up` in a real browser, with the built-in model."""

import pytest
from playwright.sync_api import BrowserContext, Page, expect
from served import Served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

#: Each picture that is to be seen has come; one far below comes when it is scrolled to.
ALL_SHOWN = """() => {
    const shown = [...document.images];
    shown.forEach(image => image.scrollIntoView());
    return shown.length > 0 && shown.every(image => image.complete && image.naturalWidth > 0);
}"""

#: What sticks out on the right, of what cannot be scrolled by itself.
STICKING_OUT = """() => [...document.querySelectorAll('body *')]
    .filter(each => !each.closest('pre, table') && each.getBoundingClientRect().right > innerWidth)
    .map(each => each.outerHTML.slice(0, 80))"""


def test_a_prompt_becomes_a_picture_that_is_shown(context: BrowserContext, served: Served) -> None:
    # Chromium styles the page that it makes for a picture, and tells that it may not.
    page = context.new_page()
    task = served.ask(page, prompt="a red fox", size=128)
    assert task["state"] == "succeeded", task
    page.goto(task["output"])
    page.wait_for_function(ALL_SHOWN)
    assert page.evaluate("document.images[0].naturalWidth") == 128


def test_what_is_wrong_with_an_input_is_told_in_words(page: Page, served: Served) -> None:
    problem = served.ask(page, prompt="a red fox", size=999)
    assert "/input/size: 999 is not one of 128, 512" in problem["detail"]
    page.goto(problem["type"])
    row = page.locator(":target")
    expect(row).to_contain_text("invalid_input")
    expect(row).to_contain_text(problem["title"])
    expect(row).to_be_in_viewport()


@pytest.mark.parametrize("path", ["/docs", "/docs/errors"])
def test_nothing_sticks_out_of_a_telephone(page: Page, path: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(path)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate(STICKING_OUT) == []
