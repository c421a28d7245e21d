"""Do the journeys through the web app work, in a real browser, with the built-in models?

    python benchmarks/web_journeys.py

Runs the browser tests that show them, over a real server with real workers. The last line is one
JSON object whose value is the number of journeys that did not pass; a test that is missing, or was
skipped, counts as one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

import machine
from fleet_providers import counted

#: What somebody does → the test that shows it.
JOURNEYS = {
    "create a picture": (
        "test_web_create.py",
        "test_a_spanish_prompt_becomes_a_picture_and_says_what_was_understood",
    ),
    "watch the preview": (
        "test_web_create.py",
        "test_a_picture_is_seen_while_it_is_drawn",
    ),
    "reload in the middle, and cancel": (
        "test_web_create.py",
        "test_pictures_on_their_way_survive_a_reload_and_one_can_be_canceled",
    ),
    "find pictures in the library": (
        "test_web_library.py",
        "test_pictures_are_found_shown_and_favoured",
    ),
    "compare models and vote": (
        "test_web_models.py",
        "test_models_are_compared_blind_and_named_after_the_vote",
    ),
    "see a worker die on the fleet page": (
        "test_web_operators.py",
        "test_the_fleet_shows_a_worker_that_dies_and_who_takes_over",
    ),
    "create on a phone": (
        "test_web_create.py",
        "test_on_a_phone_it_fits_and_the_button_is_at_hand",
    ),
    "create with the keyboard alone": (
        "test_web_create.py",
        "test_with_the_keyboard_alone",
    ),
    "make portraits": (
        "test_web_portraits.py",
        "test_a_face_becomes_a_pack_of_portraits_that_come_one_by_one",
    ),
}


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    tests = [f"tests/browser/{file}::{name}" for file, name in JOURNEYS.values()]
    with machine.folder("web-journeys") as folder:
        report = folder / "report.xml"
        code = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *("--basetemp", str(folder / "t"), "--junitxml", str(report), *tests),
            ],
            cwd=machine.ROOT,
            stdout=sys.stderr,
            check=False,
        ).returncode
        # Without any of the tests pytest runs none, and writes no report of them.
        detail: dict[str, Any] = counted(report) if report.is_file() else {"passed": 0}
    detail["journeys"] = list(JOURNEYS)
    failed = len(JOURNEYS) - detail["passed"]
    machine.report(float(failed), detail, ok=code == 0 and not failed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
