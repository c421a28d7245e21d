"""LibreTranslate's API over a model that translates text.

The built-in model translates into English: whole sentences with packages of Argos Translate, or
word by word from five languages without any. The alias `libretranslate` selects another model;
its input `target` lists its target languages. LibreTranslate's clients send their key in the body:
it is a Swell key.

Source:
    libretranslatepy 2.1.4 and LibreTranslate's own API reference, November 2026.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from swell.compat.error_formats import TASK_ERRORS, error_reply, failed_on_input
from swell.compat.facade import facade
from swell.compat.follow_task import wait_for_end
from swell.compat.image_fields import choices_of, properties_of
from swell.compat.model_names import resolve
from swell.compat.request_inputs import decode_json, form_parts
from swell.core.errors import (
    InvalidRequest,
    NotFound,
    SwellError,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from swell.core.records import Scope
from swell.core.task import NewTask, Task, TaskState
from swell.server.auth import check_scope
from swell.server.decoding import convert_fields
from swell.server.models.model_cards import Target
from swell.server.problem_details import field_error
from swell.server.request import Call, Reply
from swell.server.route import IDEMPOTENCY_KEY, Body, Response
from swell.server.serializers import encode
from swell.server.service import Service
from swell.server.tasks.admission import check
from swell.server.tasks.submit import accept, repeat_of
from swell.server.tasks.task_schemas import TaskRequest

#: The alias of an operator's model, and the built-in model.
_MODELS: Final = ("libretranslate", "swell/translate")

#: Languages that the built-in model reads without packages, by ISO 639-1 code.
_SOURCES: Final[Mapping[str, str]] = {
    **{"en": "English", "de": "German", "es": "Spanish", "fr": "French", "it": "Italian"},
    "pt": "Portuguese",
}

#: LibreTranslate's codes that differ from ISO 639-1.
_CODES: Final = {"pb": "pt", "zt": "zh", "nn": "nb", "no": "nb"}

#: Most texts of a request, and characters of all of them together.
_MOST_TEXTS: Final = 100
_MOST_CHARS: Final = 100_000

#: Most parts of a request's texts: each is a task.
_MOST_PARTS: Final = 500

#: Most characters of a task, unless the model's schema says so.
_LONGEST: Final = 2000

_SPACE: Final = re.compile(r"\s+")

#: A part of a line: all of it, else up to the end of a sentence, else of a word, else anything.
_PART: Final = r".{{1,{n}}}\Z|.{{1,{n}}}(?<=[.!?\u3002])(?=\s)|.{{1,{n}}}(?<=\S)(?=\s)|.{{1,{n}}}"


class TranslateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to translate."""

    q: (
        Annotated[str, Meta(max_length=_MOST_CHARS)]
        | Annotated[list[str], Meta(max_length=_MOST_TEXTS)]
    )
    target: Annotated[str, Meta(min_length=1, max_length=20)]
    source: Annotated[str, Meta(min_length=1, max_length=20)] = "auto"
    format: Annotated[str, Meta(max_length=20)] = "text"
    api_key: Annotated[str, Meta(max_length=500)] | None = None


class DetectRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to detect the language of."""

    q: Annotated[str, Meta(min_length=1, max_length=_MOST_CHARS)]
    api_key: Annotated[str, Meta(max_length=500)] | None = None


class DetectedLanguage(msgspec.Struct, frozen=True, kw_only=True):
    """A language, with a confidence of 0 to 100: the share of known words."""

    confidence: float
    language: str


class TranslationView(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"
):
    """A translation, or one of each text."""

    translated_text: str | list[str]
    detected_language: DetectedLanguage | list[DetectedLanguage] | None = None


class LanguageView(msgspec.Struct, frozen=True, kw_only=True):
    """A source language, and its target languages."""

    code: str
    name: str
    targets: list[str]


def refuse(call: Call, error: SwellError) -> Reply:
    """Return an error in LibreTranslate's format."""
    status = 400 if error.status == 422 else error.status
    if isinstance(error, Unauthenticated):
        status = 403  # LibreTranslate's own, for a missing or wrong key.
    detail = "something broke on our side" if status == 500 else error.detail
    return error_reply(call, error, {"error": detail}, status=status)


libretranslate: Final = facade("libretranslate", "/libretranslate", "LibreTranslate", refuse)

_FORMS: Final = ("application/json", "application/x-www-form-urlencoded")
_NEEDS_KEY: Final[dict[str, Any]] = {
    "errors": (*TASK_ERRORS, Unauthenticated, TooManyRequests),
    "scope": None,  # The handler checks the key, which the body may hold.
    "headers": (IDEMPOTENCY_KEY,),
}


@libretranslate(
    "POST /translate",
    {200: Response("The translation", TranslationView)},
    body=Body(TranslateRequest, media_types=_FORMS),
    **_NEEDS_KEY,
)
async def translate(service: Service, call: Call) -> Reply:
    """Translate one or several texts.

    Needs a key, as `api_key` in the body or as a header. A text that exceeds the model's limit
    becomes several tasks.
    """
    asked = await _read(service, call, TranslateRequest)
    if asked.format != "text":
        detail = f"{asked.format[:20]!r} is not translated here: send plain text"
        raise field_error("format", detail)
    model = await _model(service)
    is_one = isinstance(asked.q, str)
    texts = [asked.q] if is_one else asked.q
    if sum(map(len, texts)) > _MOST_CHARS:
        raise field_error("q", f"here are more than {_MOST_CHARS:,} characters: send fewer at once")
    source = "auto" if asked.source == "auto" else language_of(asked.source)
    found = await _translate(service, call, model, texts, source, language_of(asked.target))
    said = [text for text, _ in found]
    detected = [language for _, language in found] if source == "auto" else None
    view = TranslationView(
        translated_text=said[0] if is_one else said,
        detected_language=detected[0] if is_one and detected else detected,
    )
    return Reply(200, encode(view))


@libretranslate(
    "POST /detect",
    {200: Response("The likeliest language, in a list", Sequence[DetectedLanguage])},
    body=Body(DetectRequest, media_types=_FORMS),
    **_NEEDS_KEY,
)
async def detect(service: Service, call: Call) -> Reply:
    """Detect the language of a text.

    Needs a key, as `api_key` in the body or as a header.
    """
    asked = await _read(service, call, DetectRequest)
    model = await _model(service)
    target = targets_of(model.card.input_schema)[0]
    first = next((part for part, _ in pieces(asked.q, _longest(model)) if part.strip()), "")
    [(_, language)] = await _translate(service, call, model, [first], "auto", target)
    return Reply(200, encode([language]))


@libretranslate(
    "GET /languages",
    {200: Response("Source languages with their targets", Sequence[LanguageView])},
    (NotFound,),
    scope=None,
)
async def languages(service: Service, call: Call) -> Reply:
    """List languages."""
    schema = (await _model(service)).card.input_schema
    targets = targets_of(schema)
    sources = sources_of(schema).items()
    views = [LanguageView(code=code, name=name, targets=targets) for code, name in sources]
    return Reply(200, encode(views))


# --- languages and parts; pure


def language_of(code: str) -> str:
    """Return the ISO 639-1 code of a LibreTranslate language, such as `pb` or `zh-Hans`."""
    plain = code.strip().replace("_", "-").partition("-")[0].lower()
    return _CODES.get(plain, plain)


def targets_of(schema: Mapping[str, Any]) -> list[str]:
    """Return the target languages of a model: the choices of its `target`, else English."""
    return [str(each) for each in choices_of(schema, "target") or ()] or ["en"]


def sources_of(schema: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the source languages of a model, with names; by default the built-in model's."""
    codes = [str(each) for each in choices_of(schema, "source") or () if each != "auto"]
    return {code: _SOURCES.get(code, code) for code in codes} or _SOURCES


def pieces(text: str, longest: int) -> list[tuple[str, str]]:
    """Return the parts of a text to translate, each with the space after it.

    Lines stay apart. A long line is cut after sentences, else between words, else anywhere.

    Args:
        text: Any text.
        longest: Most characters of a part.
    """
    part = re.compile(_PART.format(n=longest), re.DOTALL)
    line_ends = [each.start() for each in _SPACE.finditer(text) if "\n" in each.group()]
    at = len(text) - len(text.lstrip())
    found = [("", text[:at])] if at else []
    for line_end in [*line_ends, len(text)]:
        while (cut := part.match(text, at, line_end)) is not None:
            space = _SPACE.match(text, cut.end())
            at = cut.end() if space is None else space.end()
            found.append((cut[0], text[cut.end() : at]))
    return found


def _longest(model: Target) -> int:
    longest = properties_of(model.card.input_schema).get("text", {}).get("maxLength")
    return longest if isinstance(longest, int) and longest > 0 else _LONGEST


# --- requests


async def _model(service: Service) -> Target:
    try:
        return await resolve(service, *_MODELS)
    except NotFound as error:
        raise NotFound(
            "no model here translates: serve one, as with `swell up --models swell/translate`, or "
            "say which does with server.model_aliases.libretranslate"
        ) from error


async def _read(service: Service, call: Call, kind: type[Any]) -> Any:
    """Check the key and return the request.

    A key in the header is checked before the body is read; with one in the body, the body has at
    most `MAX_KEYLESS_BYTES`.

    Raises:
        Unauthenticated, Forbidden, TooManyRequests: As everywhere.
    """
    header = call.headers.get(b"authorization")
    if header is not None:
        await _enter(service, call, header)
    fields = await _fields(service, call)
    names = kind.__struct_fields__
    asked = convert_fields({name: fields[name] for name in names if name in fields}, kind)
    if header is None:
        if not asked.api_key:
            raise Unauthenticated("this needs a key: send api_key, or the header Authorization")
        header = b"Bearer " + asked.api_key.encode("utf-8", "replace")
        call.headers[b"authorization"] = header
        await _enter(service, call, header)
    return asked


async def _enter(service: Service, call: Call, header: bytes) -> None:
    call.key = call.caller = await service.keys.find(header)
    check_scope(call.caller, Scope.CLIENT)
    service.limits.check(call)


async def _fields(service: Service, call: Call) -> Mapping[str, Any]:
    """Return the fields of a form or a JSON object; repeated ones of a form are lists."""
    limit = call.limit_bytes(service.settings.server.max_body_bytes)
    if call.media_type == "multipart/form-data":
        pairs = [(part.name, await part.text()) async for part in form_parts(call, limit)]
    elif call.media_type == "application/x-www-form-urlencoded":
        try:
            text = (await call.body(limit)).decode("ascii")
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=200)
        except ValueError as error:
            raise InvalidRequest("the form is not URL-encoded UTF-8") from error
    else:
        fields = decode_json(await call.body(limit), "the body is no form and")
        if not isinstance(fields, dict):
            raise InvalidRequest('the body is a form, or a JSON object such as {"q": "hola"}')
        return fields
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return {name: each if len(each) > 1 else each[0] for name, each in values.items()}


# --- translations


async def _translate(
    service: Service, call: Call, model: Target, texts: Sequence[str], source: str, target: str
) -> list[tuple[str, DetectedLanguage]]:
    """Return the translation and the language of each text.

    Raises:
        InvalidInput: The texts have too many parts, or the model does not know a language.
    """
    parts_of = [pieces(text, _longest(model)) for text in texts]
    # Equal parts are translated once.
    parts = list(dict.fromkeys(part for each in parts_of for part, _ in each if part.strip()))
    if len(parts) > _MOST_PARTS:
        raise field_error("q", f"here are more than {_MOST_PARTS} lines: send fewer at once")
    repeat = await repeat_of(service, call, encode([parts, source, target]))
    news = []
    for number, part in enumerate(parts):
        own = repeat and msgspec.structs.replace(repeat, key=repeat.key_at(number))
        # Other requests run between two tasks.
        await asyncio.sleep(0)
        news.append(await check(service, call, _task_request(part, source, target, model), own))
    outputs: list[dict[str, Any]] = []
    most = max(1, service.limits.most_at_once(call, len(news)))
    for at in range(0, len(news), most):
        outputs += map(_output, await _run(service, call, news[at : at + most]))
    said = dict(zip(parts, outputs, strict=True))
    return [_joined(each, said) for each in parts_of]


def _task_request(text: str, source: str, target: str, model: Target) -> TaskRequest:
    schema = model.card.input_schema
    choices = targets_of(schema)
    if target not in choices:
        raise field_error("target", f"{target} is not supported: there is {', '.join(choices)}")
    fields = {"text": text, "source": source}
    if "target" in properties_of(schema):
        fields["target"] = target
    return TaskRequest(model=model.queue, input=msgspec.Raw(encode(fields)))


async def _run(service: Service, call: Call, news: Sequence[NewTask]) -> list[Task]:
    """Accept tasks together, and return them once they have ended."""
    accepted = await accept(service, call, news)
    try:
        async with asyncio.TaskGroup() as group:
            ends = [group.create_task(wait_for_end(service, call, each)) for each in accepted]
    except ExceptionGroup as errors:
        # The first error canceled the others.
        raise errors.exceptions[0] from None
    return [end.result() for end in ends]


def _output(task: Task) -> dict[str, Any]:
    if task.state is not TaskState.SUCCEEDED or task.output is None:
        detail = f"the request was {task.state}" if task.error is None else task.error.detail
        raise InvalidRequest(detail) if failed_on_input(task) else Unavailable(detail)
    output = msgspec.json.decode(task.output)
    return output if isinstance(output, dict) else {"text": str(output)}


def _joined(
    parts: Sequence[tuple[str, str]], said: Mapping[str, Mapping[str, Any]]
) -> tuple[str, DetectedLanguage]:
    """Return a translation from its parts, and the language of the first."""
    text = "".join(str(said.get(part, {}).get("text", part)) + space for part, space in parts)
    first = next((said[part] for part, _ in parts if part in said), {"known": 0.0})
    confidence = round(100.0 * float(first.get("known", 1.0)), 1)
    return text, DetectedLanguage(confidence=confidence, language=str(first.get("language", "en")))
