"""LibreTranslate's API, spoken over the model that brings prompts into English.

The built-in model translates into English only, whole sentences with packages of Argos Translate
and word by word from five languages without any. A model of the operator's own takes its place by
the alias `libretranslate`, and translates into whatever its input `target` lists.

LibreTranslate's clients send their key inside the body. It is one of our keys.

Source:
    libretranslatepy 2.1.4 and LibreTranslate's own API reference, November 2026.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from swell.api.auth import check_scope
from swell.api.call import Call, Reply
from swell.api.cards import Target
from swell.api.drafts import repeat_of
from swell.api.facades.aliases import resolve
from swell.api.facades.endings import is_users_fault, until_end
from swell.api.facades.pictures import refused
from swell.api.facades.refusals import refusal
from swell.api.forms import read_parts
from swell.api.messages import TaskRequest
from swell.api.reading import convert_fields
from swell.api.route import IDEMPOTENCY_KEY, Body, Response, Route
from swell.api.service import Service
from swell.api.submit import check
from swell.api.views import encode
from swell.errors import (
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    NoWorker,
    SwellError,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from swell.registry import Scope
from swell.store import Accepted
from swell.task import NewTask, Task, TaskState

GROUPS: Final = {
    "LibreTranslate": "The API of LibreTranslate's clients, with their URL set to "
    "`/libretranslate`; see docs/clients.md.",
}

#: The model, and the alias by which an operator names another.
_NAMES: Final = ("libretranslate", "swell/translate")

#: What the built-in model reads without further packages, by ISO 639-1 code.
_READS: Final[Mapping[str, str]] = {
    **{"en": "English", "de": "German", "es": "Spanish", "fr": "French", "it": "Italian"},
    "pt": "Portuguese",
}

#: What LibreTranslate calls languages that have another code elsewhere.
_CODES: Final = {"pb": "pt", "zt": "zh", "nn": "nb", "no": "nb"}

#: Texts of one request, and letters of all of them together.
_MOST_TEXTS: Final = 100
_MOST_LETTERS: Final = 100_000
#: Parts into which they are taken for translation, each another task.
_MOST_PARTS: Final = 500

#: Letters of one task where the model's schema does not say.
_LONGEST: Final = 2000

_SPACE: Final = re.compile(r"\s+")

#: Where a long line may be taken apart, the best first.
_ENDS: Final = (re.compile(r"(?<=[.!?\u3002])\s+"), _SPACE)


class TranslateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to translate."""

    q: (
        Annotated[str, Meta(max_length=_MOST_LETTERS)]
        | Annotated[list[str], Meta(max_length=_MOST_TEXTS)]
    )
    target: Annotated[str, Meta(min_length=1, max_length=20)]
    source: Annotated[str, Meta(min_length=1, max_length=20)] = "auto"
    format: Annotated[str, Meta(max_length=20)] = "text"
    api_key: Annotated[str, Meta(max_length=500)] | None = None


class DetectRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Whose language is to be told."""

    q: Annotated[str, Meta(min_length=1, max_length=_MOST_LETTERS)]
    api_key: Annotated[str, Meta(max_length=500)] | None = None


class DetectedLanguage(msgspec.Struct, frozen=True, kw_only=True):
    """A language, and how sure that is, 0 to 100: the share of words that are known."""

    confidence: float
    language: str


class TranslationView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A translation, or one of each text."""

    translated_text: str | list[str] = msgspec.field(name="translatedText")
    detected_language: DetectedLanguage | list[DetectedLanguage] | None = msgspec.field(
        default=None, name="detectedLanguage"
    )


class LanguageView(msgspec.Struct, frozen=True, kw_only=True):
    """A language, and what it is translated into."""

    code: str
    name: str
    targets: list[str]


# --- pure


def language_of(code: str) -> str:
    """Return the ISO 639-1 code of what LibreTranslate calls a language: `pb`, `zh-Hans`."""
    plain = code.strip().replace("_", "-").partition("-")[0].lower()
    return _CODES.get(plain, plain)


def pieces(text: str, longest: int) -> list[tuple[str, str]]:
    """Return a text in parts that can be translated, each with the space behind it.

    Lines stay lines. What is too long is taken apart at the ends of sentences, else between words,
    and what has none of these in the middle.

    Args:
        text: Any text.
        longest: Letters of one part at most.
    """
    found: list[tuple[str, str]] = []
    at = 0
    for end in _SPACE.finditer(text):
        if "\n" in end.group():
            found += _short(text[at : end.start()], end.group(), longest)
            at = end.end()
    return [*found, *_short(text[at:], "", longest)]


def _short(line: str, space: str, longest: int) -> list[tuple[str, str]]:
    """Return a line in parts, the last with the space behind the line."""
    found: list[tuple[str, str]] = []
    at = 0
    while len(line) - at > longest:
        end, start = _cut(line, at, longest)
        found.append((line[at:end], line[end:start]))
        at = start
    return [*found, (line[at:], space)]


def _cut(line: str, at: int, longest: int) -> tuple[int, int]:
    """Return where the part of a line that begins at a place ends, and where the next begins."""
    last = at + longest
    for ends in _ENDS:
        # Only this part is looked through: a text may be a single line.
        places = [each.start() for each in ends.finditer(line, at, last + 1) if each.start() > at]
        if places:
            space = _SPACE.match(line, places[-1])
            return places[-1], last if space is None else space.end()
    return last, last


def task_request(text: str, source: str, target: str, model: Target) -> TaskRequest:
    """Return the task that translates one part of a text.

    Raises:
        InvalidInput: The model does not translate into this language.
    """
    known = model.card.input_schema.get("properties", {})
    fields = {"text": text, "source": source}
    choices = targets_of(model.card.input_schema)
    if target not in choices:
        raise refused("target", f"{target} is not supported: there is {', '.join(choices)}")
    if "target" in known:
        fields["target"] = target
    return TaskRequest(model=model.queue, input=msgspec.Raw(encode(fields)))


def targets_of(schema: Mapping[str, Any]) -> list[str]:
    """Return the codes that a model translates into: what its `target` lists, else English."""
    prop = schema.get("properties", {}).get("target", {})
    return [str(each) for each in prop.get("enum", ())] or ["en"]


def sources_of(schema: Mapping[str, Any]) -> dict[str, str]:
    """Return the languages that a model reads: what its `source` lists, else ours, with names."""
    prop = schema.get("properties", {}).get("source", {})
    codes = [str(each) for each in prop.get("enum", ()) if each != "auto"]
    return {code: _READS.get(code, code) for code in codes} if codes else dict(_READS)


# --- operations


async def translate(service: Service, call: Call) -> Reply:
    """`POST /libretranslate/translate`."""
    service.traces.begin(call)
    asked = await _read(service, call, TranslateRequest)
    if asked.format != "text":
        raise refused("format", f"{asked.format[:20]!r} is not translated here: send plain text")
    model = await _model(service)
    texts = [asked.q] if isinstance(asked.q, str) else asked.q
    if sum(map(len, texts)) > _MOST_LETTERS:
        raise refused("q", f"here are more than {_MOST_LETTERS:,} letters: send fewer at once")
    source = "auto" if asked.source == "auto" else language_of(asked.source)
    language = language_of(asked.target)
    found = await _translated(service, call, model, texts, source, language)
    said, languages = [text for text, _ in found], [language for _, language in found]
    is_one = isinstance(asked.q, str)
    told: Any = (languages[0] if is_one else languages) if source == "auto" else None
    view = TranslationView(translated_text=said[0] if is_one else said, detected_language=told)
    return Reply(200, encode(view))


async def detect(service: Service, call: Call) -> Reply:
    """`POST /libretranslate/detect`."""
    service.traces.begin(call)
    asked = await _read(service, call, DetectRequest)
    model = await _model(service)
    target = targets_of(model.card.input_schema)[0]
    first = next((part for part, _ in pieces(asked.q, _longest(model)) if part.strip()), "")
    _, language = (await _translated(service, call, model, [first], "auto", target))[0]
    return Reply(200, encode([language]))


async def languages(service: Service, call: Call) -> Reply:
    """`GET /libretranslate/languages`."""
    model = await _model(service)
    schema = model.card.input_schema
    targets = targets_of(schema)
    views = [
        LanguageView(code=code, name=name, targets=targets)
        for code, name in sources_of(schema).items()
    ]
    return Reply(200, encode(views))


async def _model(service: Service) -> Target:
    try:
        return await resolve(service, *_NAMES)
    except NotFound as error:
        raise NotFound(
            "no model here translates: serve one, as with `swell up --models swell/translate`, or "
            "say which does with server.model_aliases.libretranslate"
        ) from error


async def _read(service: Service, call: Call, kind: type[Any]) -> Any:
    """Let the caller in, and return the fields of a body, which is a form of either kind or JSON.

    A key in the header is looked up before the body is read; with one in the body, the body has at
    most `MAX_KEYLESS_BYTES`.

    Raises:
        Unauthenticated, Forbidden, TooManyRequests: As anywhere.
    """
    header = call.header(b"authorization")
    if header is not None:
        await _enter(service, call, header)
    limit = call.limit_bytes(service.settings.server.max_body_bytes)
    told: Any
    if call.media_type == "multipart/form-data":
        parts = read_parts(call.header(b"content-type") or b"", call.chunks(limit))
        told = _fields([(each.name, await each.text()) async for each in parts])
    elif call.media_type == "application/x-www-form-urlencoded":
        body = await call.body(limit)
        try:
            pairs = parse_qsl(
                body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=200
            )
        except ValueError as error:
            raise InvalidRequest("the form is not URL-encoded UTF-8") from error
        told = _fields(pairs)
    else:
        body = await call.body(limit)
        try:
            told = msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(f"the body is neither a form nor JSON: {error}") from error
    if not isinstance(told, dict):
        raise InvalidRequest('the body is a form, or a JSON object such as {"q": "hola"}')
    names = kind.__struct_fields__
    asked = convert_fields({name: told[name] for name in names if name in told}, kind)
    if header is None:
        if not asked.api_key:
            raise Unauthenticated(
                "this needs a key: send one of ours as api_key, or in the header Authorization"
            )
        header = b"Bearer " + asked.api_key.encode("utf-8", "replace")
        call.bring_key(header)
        await _enter(service, call, header)
    return asked


def _fields(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the fields of a form; one that comes several times is a list."""
    told: dict[str, list[str]] = {}
    for name, value in pairs:
        told.setdefault(name, []).append(value)
    return {name: values if len(values) > 1 else values[0] for name, values in told.items()}


async def _enter(service: Service, call: Call, header: bytes) -> None:
    call.key = service.keys.known(header) or await service.keys.find(header)
    check_scope(call.key, Scope.CLIENT)
    service.limits.check(call)


async def _translated(
    service: Service, call: Call, model: Target, texts: Sequence[str], source: str, target: str
) -> list[tuple[str, DetectedLanguage]]:
    """Return texts in another language, and which each was in.

    Raises:
        InvalidInput: They have too many parts, or the model does not know a language.
    """
    parts = [pieces(text, _longest(model)) for text in texts]
    # The same words need to be translated only once.
    each = dict.fromkeys(part for text in parts for part, _ in text if part.strip())
    if len(each) > _MOST_PARTS:
        raise refused("q", f"here are more than {_MOST_PARTS} lines: send fewer at once")
    said = await _outputs(service, call, model, list(each), source, target)
    return [_joined(text, said) for text in parts]


def _joined(
    parts: Sequence[tuple[str, str]], said: Mapping[str, Mapping[str, Any]]
) -> tuple[str, DetectedLanguage]:
    """Return a text from what its parts have become, and its language: that of its first part."""
    whole = "".join(str(said.get(part, {}).get("text", part)) + space for part, space in parts)
    first = next((said[part] for part, _ in parts if part in said), {"known": 0.0})
    language = DetectedLanguage(
        confidence=round(100.0 * float(first.get("known", 1.0)), 1),
        language=str(first.get("language", "en")),
    )
    return whole, language


async def _outputs(
    service: Service, call: Call, model: Target, parts: Sequence[str], source: str, target: str
) -> dict[str, dict[str, Any]]:
    """Return what a model makes of each part: a task each, as many at once as the key may have."""
    repeat = await repeat_of(service, call, encode([parts, source, target]))
    news = []
    for n, part in enumerate(parts):
        request = task_request(part, source, target, model)
        own = repeat and msgspec.structs.replace(repeat, key=repeat.key_at(n))
        # Let other requests run between two tasks.
        await asyncio.sleep(0)
        news.append(await check(service, call, request, own))
    said: dict[str, dict[str, Any]] = {}
    most = service.limits.most_at_once(call, len(news))
    for at in range(0, len(news), max(1, most)):
        ended = await _ended(service, call, news[at : at + most])
        said |= dict(zip(parts[at : at + most], map(_output, ended), strict=True))
    return said


async def _ended(service: Service, call: Call, news: Sequence[NewTask]) -> list[Task]:
    """Return tasks that were accepted together, once they have ended.

    Raises:
        SwellError: They were not accepted, or one of them cannot be waited for.
    """
    accepted: list[Accepted] = []
    for each in await service.limits.accept(call, news):
        if isinstance(each, SwellError):
            raise each
        accepted.append(each)
    service.traces.accepted(call, accepted)
    try:
        async with asyncio.TaskGroup() as group:
            ends = [group.create_task(until_end(service, call, each)) for each in accepted]
    except ExceptionGroup as errors:
        # The first is why the others ended.
        raise errors.exceptions[0] from None
    return [end.result() for end in ends]


def _output(task: Task) -> dict[str, Any]:
    if task.state is not TaskState.SUCCEEDED or task.output is None:
        raise _failure(task)
    output = msgspec.json.decode(task.output)
    return output if isinstance(output, dict) else {"text": str(output)}


def _failure(task: Task) -> SwellError:
    detail = f"the request was {task.state}" if task.error is None else task.error.detail
    return InvalidRequest(detail) if is_users_fault(task) else Unavailable(detail)


def _longest(model: Target) -> int:
    prop = model.card.input_schema.get("properties", {}).get("text", {})
    longest = prop.get("maxLength", _LONGEST)
    return longest if isinstance(longest, int) and longest > 0 else _LONGEST


# --- errors


def refuse(call: Call, error: SwellError) -> Reply:
    """Return the answer that tells an error in LibreTranslate's words."""
    status = 400 if error.status == 422 else error.status
    if isinstance(error, Unauthenticated):
        status = 403  # LibreTranslate's own, for a key that is missing or wrong
    detail = "something broke on our side" if status == 500 else error.detail
    return refusal(call, error, {"error": detail}, status=status)


_BODY: Final[tuple[type[SwellError], ...]] = (
    *(InvalidRequest, IdempotencyMismatch, TooLarge, Unauthenticated, TooManyRequests),
    *(NotFound, NoWorker, Unavailable),
)
_FORMS: Final = ("application/json", "application/x-www-form-urlencoded")

ROUTES: Final = (
    Route(
        "POST",
        "/libretranslate/translate",
        translate,
        None,
        "Translate one or several texts",
        "LibreTranslate",
        {200: Response("The translation", TranslationView)},
        _BODY,
        "Needs a key, as `api_key` in the body or as a header. A text that exceeds the model's "
        "limit becomes several tasks.",
        body=Body(TranslateRequest, media_types=_FORMS),
        headers=(IDEMPOTENCY_KEY,),
        facade="libretranslate",
        refuse=refuse,
    ),
    Route(
        "POST",
        "/libretranslate/detect",
        detect,
        None,
        "Detect the language of a text",
        "LibreTranslate",
        {200: Response("The likeliest language, in a list", Sequence[DetectedLanguage])},
        _BODY,
        "Needs a key, as `api_key` in the body or as a header.",
        body=Body(DetectRequest, media_types=_FORMS),
        headers=(IDEMPOTENCY_KEY,),
        facade="libretranslate",
        refuse=refuse,
    ),
    Route(
        "GET",
        "/libretranslate/languages",
        languages,
        None,
        "List languages",
        "LibreTranslate",
        {200: Response("Source languages with their targets", Sequence[LanguageView])},
        (NotFound,),
        facade="libretranslate",
        refuse=refuse,
    ),
)
