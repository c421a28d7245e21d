"""Does `swell/icons` say when it cannot draw what a prompt asks for, and only then?

Each line of `prompts/icons-outside.txt` (300 prompts whose subject the model was not trained with)
and of `prompts/icons-inside.txt` (300 whose subject it was) is read as `swell/icons` reads it
before it draws. Both files were written before any score was computed. Nothing is drawn.

Promised: at least 0.90 of the prompts outside get the warning `unknown_subject`, and at most 0.05
of those inside get any warning. Value: the smaller of (share outside with the warning) / 0.90 and
(share inside without one) / 0.95.
"""

from __future__ import annotations

from pathlib import Path

from machine import report
from swell.core.results import TaskWarning
from swell.models.icons import Icons
from swell.sdk.context import Item

PROMPTS = Path(__file__).resolve().parent / "prompts"
COUNT = 300
LEAST_WARNED, LEAST_QUIET = 0.90, 0.95


class Heard:
    """Keeps the warnings of one prompt; see `swell.sdk.context.Listener`."""

    def __init__(self) -> None:
        self.warnings: list[TaskWarning] = []

    def warn(self, warning: TaskWarning) -> None:
        self.warnings.append(warning)


def warnings(model: Icons, prompt: str) -> list[TaskWarning]:
    heard = Heard()
    model.prepare(Item(Icons.Input(prompt=prompt), listener=heard))  # type: ignore[arg-type]
    return heard.warnings


def lines(name: str) -> list[str]:
    found = (PROMPTS / name).read_text(encoding="utf-8").splitlines()
    if len(found) != COUNT:
        raise SystemExit(f"{name} holds {len(found):,} lines, and must hold {COUNT}")
    return found


def main() -> None:
    model = Icons(threads=1)
    model.load("cpu")
    outside = {prompt: warnings(model, prompt) for prompt in lines("icons-outside.txt")}
    inside = {prompt: warnings(model, prompt) for prompt in lines("icons-inside.txt")}
    missed = [
        prompt
        for prompt, heard in outside.items()
        if all(each.code != "unknown_subject" for each in heard)
    ]
    disturbed = {prompt: heard[0].message for prompt, heard in inside.items() if heard}
    warned, quiet = 1 - len(missed) / COUNT, 1 - len(disturbed) / COUNT
    detail = {
        "outside_warned": round(warned, 4),
        "inside_warned": round(1 - quiet, 4),
        "outside_without_a_warning": missed,
        "inside_with_one": disturbed,
    }
    report(min(warned / LEAST_WARNED, quiet / LEAST_QUIET), detail)


if __name__ == "__main__":
    main()
