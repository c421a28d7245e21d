"""The page of the app `translate`: a text to try, and the calculator."""

from pathlib import Path

import pytest
from app import watched
from playwright.sync_api import Browser, expect

from example_apps import started
from pages import block

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


def test_a_text_is_translated_and_the_calculator_reckons_with_what_was_measured(
    browser: Browser, tmp_path: Path
) -> None:
    make = block("examples/translate/README.md", "make example", "sh")
    with started(make, tmp_path / "data") as example:
        context = browser.new_context(
            base_url=example.url, viewport={"width": 390, "height": 844}, locale="en-GB"
        )
        with watched(context) as page:
            page.goto("/")
            sums = page.get_by_role("table")
            expect(sums).to_contain_text("not measured yet")
            page.get_by_role("button", name="Translate").click()
            expect(page.get_by_label("In English")).to_have_text("the blue cat of the headquarters")
            expect(page.get_by_role("status").last).to_contain_text(
                "From Spanish. The model knows 100 %"
            )
            expect(sums).to_contain_text("30 characters")
            page.get_by_label("API price").fill("10")
            page.get_by_label("Characters a month").fill("3")
            expect(sums.get_by_role("row", name="A month with the API")).to_contain_text("$30.00")
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        context.close()
