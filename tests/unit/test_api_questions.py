"""Questions that many ask at once."""

import asyncio
import gc
from typing import Any

import pytest

from swell.api import questions as questions_of
from swell.api.questions import Questions
from swell.errors import Unavailable


class Oracle:
    """Answers each question when it is told to, with how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = asyncio.Event()

    async def answer(self) -> int:
        self.asked += 1
        mine = self.asked
        await self.go.wait()
        return mine

    async def refuse(self) -> int:
        await self.answer()
        raise Unavailable("away")


async def begun(*asking: Any) -> "list[asyncio.Task[int]]":
    tasks = [asyncio.ensure_future(each) for each in asking]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_who_asks_what_is_being_asked_gets_that_answer_and_who_asks_later_a_new_one() -> None:
    questions, oracle = Questions[str, int](), Oracle()
    asking = await begun(*(questions.ask("which", oracle.answer) for _ in range(3)))
    asking += await begun(questions.ask("other", oracle.answer))
    oracle.go.set()
    assert await asyncio.gather(*asking) == [1, 1, 1, 2]
    assert await questions.ask("which", oracle.answer) == 3


async def test_who_gives_up_takes_the_answer_from_nobody() -> None:
    questions, oracle = Questions[str, int](), Oracle()
    asking = await begun(*(questions.ask("which", oracle.answer) for _ in range(4)))
    asking[1].cancel()
    await begun()
    assert oracle.asked == 1
    asking[0].cancel()
    await begun()
    assert oracle.asked == 2, "another one asks in his place, and the last waits for that one"
    oracle.go.set()
    assert await asyncio.gather(*asking[2:]) == [2, 2]
    for each in asking[:2]:
        with pytest.raises(asyncio.CancelledError):
            await each


async def test_who_asks_after_all_was_forgotten_gets_no_older_answer() -> None:
    questions, oracle = Questions[str, int](), Oracle()
    (before,) = await begun(questions.ask("which", oracle.answer))
    questions.forget()
    after = await begun(*(questions.ask("which", oracle.answer) for _ in range(2)))
    oracle.go.set()
    assert await asyncio.gather(before, *after) == [1, 2, 2]


@pytest.mark.slow
async def test_who_asks_what_has_long_been_asked_waits_for_an_answer_of_his_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(questions_of, "_FRESH_S", 0.2)
    questions, oracle, silent = Questions[str, int](), Oracle(), Oracle()
    (first,) = await begun(questions.ask("which", silent.answer))
    later = await begun(*(questions.ask("which", oracle.answer) for _ in range(3)))
    # Those who come at once lose patience, and one of them asks for all.
    async with asyncio.timeout(5):
        while not oracle.asked:
            await asyncio.sleep(0)
    await begun()
    oracle.go.set()
    assert await asyncio.gather(*later) == [1, 1, 1]
    assert not first.done()
    silent.go.set()
    assert await first == 1
    assert await questions.ask("which", oracle.answer) == 2


@pytest.mark.slow
async def test_a_failure_is_everybodys_who_asked_and_nobodys_if_all_have_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    questions, oracle = Questions[str, int](), Oracle()
    asking = await begun(*(questions.ask("which", oracle.refuse) for _ in range(2)))
    oracle.go.set()
    for each in asking:
        with pytest.raises(Unavailable, match="away"):
            await each
    oracle.go.clear()
    (given_up,) = await begun(questions.ask("which", oracle.refuse))
    given_up.cancel()
    oracle.go.set()
    await begun()
    del given_up
    gc.collect()
    assert caplog.text == ""
    assert await questions.ask("which", oracle.answer) == 3
