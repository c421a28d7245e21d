"""The server of the app `translate`: a company's translation API, and what it saves.

What LibreTranslate's clients send, and documents by the hundred. Each paragraph is a task under an
idempotency key that is made of the text and the model's version: what was translated within a day
is not translated again, whoever asks.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
from front import Refusal, Served, body_of, refused
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from swell.client import AsyncClient, Refused, Task, TaskEnded, Unreachable

__all__ = ["Tally", "Translation", "app", "may_be_asked_again", "paragraphs", "summed"]

HERE: Final = Path(__file__).parent
MODEL: Final = "company/translate"
#: Letters of one task, as the model's schema says.
LONGEST: Final = 2000
#: Letters, and documents, of one request.
MOST_LETTERS: Final = 1_000_000
MOST_DOCUMENTS: Final = 1_000
MOST_BYTES: Final = 4 * MOST_LETTERS
#: Tasks that are asked for at once.
AT_ONCE: Final = 64
#: Paragraphs of which it is kept who asked first.
MOST_ASKERS: Final = 200_000
#: How long one paragraph may take, in seconds.
PATIENCE_S: Final = 120.0
#: How often a paragraph that came to nothing is asked for again in a day.
MOST_TRIES: Final = 100
#: Why tasks fail that would fail again: the text is to blame.
FINAL: Final = ("rejected", "invalid_input")


@dataclass(frozen=True)
class Tally:
    """What was translated in a day."""

    letters: int = 0
    #: Of these, letters that were translated before, and cost nothing again.
    repeated_letters: int = 0

    def plus(self, letters: int, repeated_letters: int) -> "Tally":
        """Return it with more of both."""
        return Tally(self.letters + letters, self.repeated_letters + repeated_letters)


def summed(days: Mapping[str, Tally], first: str) -> Tally:
    """Return what was translated from a day on."""
    found = Tally()
    for day, tally in days.items():
        if day >= first:
            found = found.plus(tally.letters, tally.repeated_letters)
    return found


def paragraphs(text: str, longest: int = LONGEST) -> list[tuple[str, bool]]:
    """Return a text in parts, each with whether it is to be translated; joined they are the text.

    Lines are parts; one that is too long is taken apart at ends of sentences, else between words.
    """
    parts: list[tuple[str, bool]] = []
    for piece in re.split(r"(\s*\n\s*)", text):
        while len(piece) > longest:
            ends = [each.end() for each in re.finditer(r"[.!?]\s+|\s+", piece[: longest + 1])]
            sentences = [e.end() for e in re.finditer(r"[.!?]\s+", piece[: longest + 1])]
            cut = (sentences or ends or [longest])[-1]
            cut = min(cut, longest)
            parts.append((piece[:cut], bool(piece[:cut].strip())))
            piece = piece[cut:]
        if piece:
            parts.append((piece, bool(piece.strip())))
    return parts


def key_of(*told: str) -> str:
    """Return the idempotency key of a paragraph: the same for the same words and model."""
    return hashlib.sha256("\0".join(told).encode()).hexdigest()


def may_be_asked_again(task: Task) -> bool:
    """Whether a task came to nothing for a reason that may be another one the next time."""
    if not task.has_ended or task.has_succeeded:
        return False
    return task.error is None or task.error.code not in FINAL


class Translation:
    """Translates by tasks of Swell, and counts what that took."""

    def __init__(self, client: AsyncClient, folder: Path) -> None:
        self._client, self._path = client, folder / "tally.json"
        self._room = asyncio.Semaphore(AT_ONCE)
        #: Key of a paragraph → the team that asked for it first, and has its cost.
        self._askers: dict[str, str] = {}
        kept = json.loads(self._path.read_text()) if self._path.exists() else {}
        self.days = {day: Tally(**told) for day, told in kept.items()}

    async def texts(self, texts: Sequence[str], source: str, user: str) -> list[dict[str, Any]]:
        """Translate texts; each is told with its language, and how sure that is.

        Raises:
            Refusal: A text cannot be translated.
        """
        try:
            version = (await self._client.model(MODEL)).version
        except (Refused, Unreachable) as error:
            raise _refusal(error) from None
        parts = [paragraphs(text) for text in texts]
        wanted = dict.fromkeys(part for text in parts for part, is_said in text if is_said)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    part: group.create_task(self._one(part, source, user, version))
                    for part in wanted
                }
        except ExceptionGroup as errors:
            raise _refusal(errors.exceptions[0]) from None
        self._path.write_text(json.dumps({day: asdict(told) for day, told in self.days.items()}))
        outputs = {part: task.result() for part, task in tasks.items()}
        return [_joined(text, outputs) for text in parts]

    async def _submitted(
        self, text: str, source: str, user: str, version: str, *after: str
    ) -> Task:
        """Ask for a paragraph on behalf of who asked for it first: the same key, the same task.

        Args:
            text: The paragraph.
            source: Its language, or `auto`.
            user: Who asks.
            version: Of the model.
            after: The id of an earlier task for it that came to nothing: then it is another key.
        """
        key = key_of(version, source, text, *after)
        given = {"text": text.strip(), "source": source}
        if len(self._askers) >= MOST_ASKERS:
            self._askers.pop(next(iter(self._askers)))
        first = self._askers.setdefault(key, user)
        try:
            return await self._client.submit(
                MODEL, given, wait_s=30, idempotency_key=key, user=first
            )
        except Refused as error:
            if error.reason != "idempotency_mismatch":
                raise
        # Another team asked for it, before this app was started anew.
        key = key_of(version, source, text, *after, user)
        return await self._client.submit(MODEL, given, wait_s=30, idempotency_key=key, user=user)

    async def _one(self, text: str, source: str, user: str, version: str) -> Any:
        async with self._room:
            asked_at = datetime.now(UTC)  # noqa: TID251 - an app has no clock of Swell's
            after: tuple[str, ...] = ()
            for _ in range(MOST_TRIES):
                task = await self._submitted(text, source, user, version, *after)
                is_repeat = task.created_at is not None and task.created_at < asked_at
                if not (is_repeat and may_be_asked_again(task)):
                    break
                after = (task.id,)
            task = await self._client.wait(task, timeout_s=PATIENCE_S)
        day = asked_at.date().isoformat()
        told = self.days.get(day, Tally())
        self.days[day] = told.plus(len(text), len(text) if is_repeat else 0)
        lead, trail = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
        return {**task.output, "text": lead + task.output["text"] + trail}


def _joined(parts: Sequence[tuple[str, bool]], outputs: dict[str, Any]) -> dict[str, Any]:
    first = next((outputs[part] for part, is_said in parts if is_said), None)
    return {
        "text": "".join(outputs[part]["text"] if is_said else part for part, is_said in parts),
        "language": first["language"] if first else "en",
        "confidence": round(100 * first["known"], 1) if first else 0.0,
    }


def _refusal(error: BaseException) -> Exception:
    if isinstance(error, TaskEnded):
        if may_be_asked_again(error.task):
            return Refusal(503, f"{error}: ask again")
        return Refusal(400, error.task.error.detail if error.task.error else str(error))
    if isinstance(error, Refused):
        return Refusal(error.http_status, str(error))
    if isinstance(error, Unreachable):
        return Refusal(503, f"{error}: ask again")
    if isinstance(error, TimeoutError):
        return Refusal(503, f"it took longer than {PATIENCE_S:g} s and goes on: ask again")
    return error if isinstance(error, Exception) else RuntimeError(str(error))


# --- the server


class TranslateApp:
    """The routes."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._translation: Translation | None = None
        self.app = Starlette(
            routes=[
                Route("/translate", self._translate, methods=["POST"]),
                Route("/documents", self._documents, methods=["POST"]),
                Route("/savings", self._savings),
                Mount("/shared", StaticFiles(directory=HERE.parent / "page")),
                Mount("/", StaticFiles(directory=HERE / "page", html=True)),
            ],
            lifespan=self._open,
            exception_handlers={Refusal: refused},
        )

    @asynccontextmanager
    async def _open(self, _: Starlette) -> AsyncIterator[None]:
        async with AsyncClient(self._served.url, self._served.key) as client:
            self._translation = Translation(client, self._served.folder)
            yield

    @property
    def translation(self) -> Translation:
        """What translates, once the app has started."""
        assert self._translation is not None
        return self._translation

    async def _translate(self, request: Request) -> Response:
        """`POST /translate`, as LibreTranslate has it: one text, or a list of them."""
        asked = await _asked(request)
        texts = _texts(asked.get("q"), "q")
        made = await self.translation.texts(texts, _source(asked), _team(asked))
        is_list, is_auto = isinstance(asked["q"], list), _source(asked) == "auto"
        said: dict[str, Any] = {"translatedText": _all([each["text"] for each in made], is_list)}
        if is_auto:
            languages = [
                {"language": each["language"], "confidence": each["confidence"]} for each in made
            ]
            said["detectedLanguage"] = _all(languages, is_list)
        return JSONResponse(said)

    async def _documents(self, request: Request) -> Response:
        """`POST /documents`: many documents with ids of the caller's own."""
        asked = await _asked(request)
        documents = asked.get("documents")
        if not isinstance(documents, list) or not all(isinstance(d, dict) for d in documents):
            raise Refusal(400, 'send {"documents": [{"id": "…", "text": "…"}]}')
        texts = _texts([each.get("text") for each in documents], "text of each document")
        made = await self.translation.texts(texts, _source(asked), _team(asked))
        said = [{"id": d.get("id"), **m} for d, m in zip(documents, made, strict=True)]
        return JSONResponse({"documents": said})

    async def _savings(self, _: Request) -> Response:
        """What was translated in 30 days, and what it took of machines, as Swell's ledger has it.

        A task's own `run_s` is that of the batch it was in; the ledger parts it among all of them.
        """
        headers = {"Authorization": f"Bearer {self._served.admin_key}"}
        async with (
            aiohttp.ClientSession(self._served.url, headers=headers) as http,
            http.get("/v1/costs", params={"by": "model"}) as answer,
        ):
            answer.raise_for_status()
            costs = await answer.json()
        spent = [each["seconds"]["attempts"] for each in costs["costs"] if each["name"] == MODEL]
        tally = summed(self.translation.days, costs["from"])
        return JSONResponse({"from": costs["from"], **asdict(tally), "machine_s": sum(spent)})


async def _asked(request: Request) -> dict[str, Any]:
    """Return the fields of a body: JSON, or a form as LibreTranslate's clients send it."""
    if "form" in request.headers.get("content-type", ""):
        form = await request.form(max_files=0, max_fields=1000)
        texts = [str(each) for each in form.getlist("q")]
        said: Any = {**form, "q": texts if len(texts) > 1 else "".join(texts)}
    else:
        said = await _json(request)
    if not isinstance(said, dict):
        raise Refusal(400, 'send JSON such as {"q": "hola", "source": "auto", "target": "en"}')
    if said.get("target", "en") != "en":
        raise Refusal(400, "this translates into English: target is en")
    return said


async def _json(request: Request) -> Any:
    try:
        return json.loads(await body_of(request, MOST_BYTES))
    except ValueError:
        return None


def _texts(said: Any, name: str) -> list[str]:
    texts = said if isinstance(said, list) else [said]
    if not texts or not all(isinstance(each, str) for each in texts):
        raise Refusal(400, f"{name} is a text, or a list of texts")
    if len(texts) > MOST_DOCUMENTS or sum(map(len, texts)) > MOST_LETTERS:
        raise Refusal(
            413, f"send {MOST_DOCUMENTS:,} texts and {MOST_LETTERS:,} letters at most at once"
        )
    return texts


def _source(asked: dict[str, Any]) -> str:
    return str(asked.get("source") or "auto")


def _team(asked: dict[str, Any]) -> str:
    """Return on whose behalf it is: the teams of a company take turns, and costs are told apart."""
    return str(asked.get("team") or asked.get("api_key") or "anybody")[:100]


def _all(values: list[Any], is_list: bool) -> Any:
    return values if is_list else values[0]


def app(served: Served) -> Starlette:
    """Return the server."""
    return TranslateApp(served).app
