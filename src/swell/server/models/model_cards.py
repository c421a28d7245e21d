"""The models that can be used, and checks of inputs against their schemas.

The backend keeps all cards in memory. It reads the registry again if a name is unknown or the
cards are old, so that each backend soon knows what another one has registered.
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import jsonschema_rs
import msgspec

from swell.core.card_limits import compile_schema, rules_of
from swell.core.clock import Clock
from swell.core.errors import (
    UNREADABLE,
    FieldError,
    InvalidInput,
    InvalidRequest,
    NotFound,
    NoWorker,
)
from swell.core.quality_fallback import is_drawing
from swell.core.records import ModelCard
from swell.core.rollouts.rollout_state import Canary, Life, is_of_canary
from swell.db.registry import Registry
from swell.db.rollouts import read_lives
from swell.sdk.multi_sample_inputs import packs_in, size_of
from swell.server.problem_details import closest, field_error
from swell.server.request import Call, count_values

#: Cards are read again after this time, in seconds, and for an unknown name after the shorter one.
_FRESH_S: Final = 5.0
_RETRY_S: Final = 1.0

#: Largest seed that can be stored.
_MAX_SEED: Final = 2**63 - 1

#: Most broken fields in one answer.
_MAX_ERRORS: Final = 50

#: Most checks (`Rules.checks`) of an input, and of all inputs of a request. A check takes 0.2 µs or
#: less, with rare numbers 0.6 µs.
_MAX_CHECKS: Final = 400_000
_MAX_REQUEST_CHECKS: Final = 5_000_000

#: Most digits of an integer. The time to check one grows with their square.
_MAX_DIGITS: Final = 100
_DIGITS_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")
_LONG_INTEGER: Final = re.compile(rb"[:,\[]\s*-?[0-9]{%d}" % (_MAX_DIGITS + 1))

#: Most values times rules of an input for which the answer lists each broken field.
_MAX_EXPLAINED: Final = 20_000

#: Most known fields that an unknown one is compared with.
_MAX_ALIKE: Final = 200

#: Longest name in a JSON pointer, in characters.
_MAX_NAME: Final = 200

_decode = msgspec.json.Decoder().decode


class Target(msgspec.Struct, frozen=True):
    """The model version that a request names."""

    #: `owner/name`.
    model: str
    #: `owner/name`, or `owner/name:version` if the caller requires that version.
    queue: str
    card: ModelCard
    #: The version that workers must have: the required one, or the live one of a staged model; None
    #: for any.
    needed_version: str | None = None

    @property
    def pinned_version(self) -> str | None:
        """The version that the caller requires."""
        return None if self.queue == self.model else self.card.version


class _Schema:
    """A compiled input schema."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.validator = compile_schema(schema)
        self.rules = rules_of(schema)
        self.takes_anything = not schema
        self.packs = packs_in(schema)

    def refusal(self, raw: msgspec.Raw, call: Call) -> str:
        """Count the checks of an input for its request; return why there are too many, or ""."""
        data = bytes(raw)
        zeros = b"0" * (_MAX_DIGITS + 1)
        if zeros in data.translate(_DIGITS_AS_ZEROS) and _LONG_INTEGER.search(data):
            return f"the input has an integer of more than {_MAX_DIGITS} digits"
        checks = self.rules.checks(len(data), 1 + count_values(data))
        if checks > _MAX_CHECKS:
            return "the input is too large to check against the schema: send less at once"
        call.checked += checks
        if call.checked > _MAX_REQUEST_CHECKS:
            return "these inputs are too large to check against the schema: send less at once"
        return ""

    def can_explain(self, raw: msgspec.Raw) -> bool:
        """Whether listing each broken field of an input is fast."""
        # With a recursive schema it may take exponential time.
        checks = count_values(bytes(raw)) * self.rules.schemas
        return not self.rules.loops and checks <= _MAX_EXPLAINED


class Cards:
    """All registered models, in memory."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._versions: dict[str, list[ModelCard]] = {}
        #: Reference → model version, until the cards are read again.
        self._targets: dict[str, Target] = {}
        self._schemas: dict[tuple[str, str], _Schema] = {}
        #: Model → rollout, of staged models.
        self.lives: dict[str, Life] = {}
        #: Model → live version, of staged models. Always the same dictionary.
        self.live_versions: dict[str, str] = {}
        #: Model → canary, of models that have one.
        self.canaries: dict[str, Canary] = {}
        #: Models with inputs that may ask for several samples (`swell.sdk.multi_sample_inputs`).
        self.packed: frozenset[str] = frozenset()
        #: Models with steps or a size in the input (`swell.core.quality_fallback`).
        self.drawing: frozenset[str] = frozenset()
        #: Whether workers of this process are starting, so models may be missing.
        self.is_starting = False
        #: Declared pipeline without a card → reason.
        self.lacks: dict[str, str] = {}
        self._read_at_s = float("-inf")
        self._reading = asyncio.Lock()

    def all(self) -> list[ModelCard]:
        """Return every version, by name, newest first within a name."""
        return [card for cards in self._versions.values() for card in cards]

    def newest(self) -> list[ModelCard]:
        """Return the version of each model that a request without a version gets."""
        return [card for cards in self._versions.values() if (card := _default(cards))]

    async def versions(self, model: str) -> list[ModelCard]:
        """Return the versions of a model, newest first.

        Raises:
            NotFound: There is no such model.
        """
        for older_than_s in (_FRESH_S, _RETRY_S):
            await self.refresh(older_than_s)
            if model in self._versions:
                return self._versions[model]
        raise self._missing(model)

    async def target(self, ref: str) -> Target:
        """Return the model version of `owner/name` or `owner/name:version`.

        Raises:
            NotFound: There is no such model or version.
        """
        target = self._targets.get(ref)
        if target is not None and self._clock.monotonic_s() - self._read_at_s < _FRESH_S:
            return target
        for older_than_s in (_FRESH_S, _RETRY_S):
            await self.refresh(older_than_s)
            target = self._targets.get(ref) or self._target(ref)
            if target is not None:
                self._targets[ref] = target
                return target
        raise self._missing(ref)

    def find(self, ref: str) -> ModelCard | None:
        """Return the card that a reference means, without reading the registry."""
        target = self._target(ref)
        return None if target is None else target.card

    async def registered(self, model: str, version: str) -> ModelCard | None:
        """Return a version in any stage; None if it was never registered."""
        await self.refresh(_FRESH_S)
        cards = self._versions.get(model, ())
        return next((card for card in cards if card.version == version), None)

    async def refresh_rollouts(self) -> None:
        """Read the registry if a rollout has changed."""
        if await read_lives(self._registry) != self.lives:
            await self.refresh()

    def check_input(
        self, call: Call, target: Target, raw: msgspec.Raw, at: str = "/input"
    ) -> dict[str, Any]:
        """Return a decoded input, after a check against its model's schema.

        Raises:
            InvalidInput: The input breaks the schema, or it or all inputs of the request take too
                long to check. The error lists each broken field, unless that takes too long.
            InvalidRequest: The input is not JSON.
        """
        schema = self._schema(target.card)
        try:
            value: Any = _decode(raw)
        except UNREADABLE as error:
            raise InvalidRequest(f"the value at {at} is not JSON in UTF-8: {error}") from error
        if type(value) is not dict:
            detail = 'an input is an object of the model\'s fields, such as {"prompt": "…"}'
            raise InvalidInput(detail, errors=[FieldError(pointer=at, detail=detail, code="type")])
        if schema.takes_anything:
            return value
        if reason := schema.refusal(raw, call):
            raise _refused_whole(target, at, reason, "too_large")
        try:
            if schema.validator.is_valid(value):
                return value
            if schema.can_explain(raw):
                self._explain(target, schema, value, at)
        except ValueError as error:
            # The validator has a limit of some hundred levels.
            detail = "it is nested too deeply to be checked: send it with fewer levels"
            raise field_error(at, detail, "depth") from error
        reason = "the input breaks the schema; it is too large to list the broken fields"
        if schema.rules.loops:
            reason = (
                "the input breaks the schema, which refers to itself: the broken fields of such a "
                "schema are not listed"
            )
        raise _refused_whole(target, at, reason, "schema")

    def takes(self, ref: str, raw: msgspec.Raw, call: Call) -> bool:
        """Whether an input for one model fits another one; its checks count for the request."""
        card = self.find(ref)
        if card is None:
            return False
        schema = self._schema(card)
        try:
            return schema.takes_anything or (
                not schema.refusal(raw, call) and schema.validator.is_valid(_decode(raw))
            )
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return False

    def pack_size(self, card: ModelCard, value: Mapping[str, Any]) -> int:
        """Return the number of samples that an input asks for."""
        return size_of(self._schema(card).packs, value)

    def of_queue(self, queue: str) -> ModelCard | None:
        """Return the card of the version that serves a queue."""
        model, _, version = queue.partition(":")
        if is_of_canary(queue):
            canary = self.canaries.get(model)
            version = "" if canary is None else canary.version
        return self.find(f"{model}:{version}" if version else model)

    def _schema(self, card: ModelCard) -> _Schema:
        key = (card.name, card.version)
        if key not in self._schemas:
            self._schemas[key] = _Schema(card.input_schema)
        return self._schemas[key]

    def _explain(self, target: Target, schema: _Schema, value: Any, at: str) -> NoReturn:
        known = list(target.card.input_schema.get("properties", {}))
        errors: list[FieldError] = []
        for broken in schema.validator.iter_errors(value):
            errors.extend(_field_errors(broken, at, known))
            if len(errors) >= _MAX_ERRORS:
                break
        first = f"{errors[0]['pointer']}: {errors[0]['detail']}" if errors else "see its schema"
        raise InvalidInput(
            f"the input does not fit {target.model}: {first}{'' if first.endswith('?') else '.'} "
            f"GET /v1/models/{target.model} shows its input_schema and an example",
            errors=errors[:_MAX_ERRORS],
        )

    def _target(self, ref: str) -> Target | None:
        model, _, version = ref.partition(":")
        cards = self._versions.get(model, [])
        needed: str | None = None
        card = _default(cards)
        if ":" in ref:
            named = (each for each in cards if each.version == version and each.stage != "retired")
            card, needed = next(named, None), version
        elif model in self.lives:
            needed = self.lives[model].live
        if card is None:
            return None
        return Target(model, ref, card, needed)

    def _missing(self, ref: str) -> NotFound | NoWorker:
        model, _, version = ref.partition(":")
        if version and model in self._versions:
            running = [each.version for each in self._versions[model] if each.stage != "retired"]
            return NotFound(
                f"{model} has no version {version[:60]!r} that runs; there are: "
                f"{', '.join(running)[:200] or 'none'}. Leave the version out for the newest"
            )
        if model in self.lacks:
            return NotFound(f"the pipeline {model} cannot be used yet: {self.lacks[model]}")
        if self.is_starting:
            return NoWorker(
                f"Swell is starting: no worker has registered {model[:120]!r} yet. Try again in a "
                "few seconds"
            )
        known = sorted(self._versions)
        near = closest(model, known)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        there = f"this server knows {', '.join(known[:10])}" if known else "none is served yet"
        return NotFound(
            f"there is no model {ref[:120]!r}: {hint}{there}. To serve it, start a worker with "
            "`swell worker --models FILE.py` or `swell up --models FILE.py`"
        )

    async def refresh(self, older_than_s: float = 0.0) -> None:
        """Read the registry, unless it was read less than so many seconds ago."""
        asked_at_s = self._clock.monotonic_s()
        if asked_at_s - self._read_at_s < older_than_s:
            return
        async with self._reading:
            # Another call may have read the registry while this one waited.
            if older_than_s > 0 and asked_at_s - self._read_at_s < older_than_s:
                return
            versions: dict[str, list[ModelCard]] = {}
            lives = await read_lives(self._registry)
            cards = await self._registry.models()
            for card in cards:
                if card.name in lives:
                    stage = lives[card.name].stage(card.version).value
                    card = msgspec.structs.replace(card, stage=stage)
                versions.setdefault(card.name, []).append(card)
            self._versions = versions
            self._targets.clear()
            self.packed = frozenset(each.name for each in cards if packs_in(each.input_schema))
            self.drawing = frozenset(each.name for each in cards if is_drawing(each.input_schema))
            self.lives = lives
            self.live_versions.clear()
            self.live_versions.update({model: life.live for model, life in lives.items()})
            self.canaries = {model: life.canary for model, life in lives.items() if life.canary}
            self._read_at_s = asked_at_s


def own_seed(card: ModelCard, value: Mapping[str, Any]) -> int | None:
    """Return the seed in a checked input, or the default of its model; None for none.

    Seeds below 0 count as none, as in a worker.
    """
    field = (card.input_schema.get("properties") or {}).get("seed")
    if not isinstance(field, dict):
        return None
    found = value.get("seed", field.get("default"))
    is_seed = isinstance(found, int) and not isinstance(found, bool)
    return found if is_seed and 0 <= found <= _MAX_SEED else None


def is_plain_word(word: str) -> bool:
    """Whether a word can be a version, or a part of a model's name."""
    plain = word.replace("-", "").replace("_", "").replace(".", "")
    return len(word) <= 100 and plain.isalnum()


def is_model_name(name: str) -> bool:
    """Whether this is `owner/name`."""
    owner, _, rest = name.partition("/")
    return is_plain_word(owner) and is_plain_word(rest)


def pointer_of(parts: Sequence[str | int]) -> str:
    """Return the JSON pointer of a path (RFC 6901); long names are cut."""
    names = (str(part)[:_MAX_NAME] for part in parts)
    return "".join(f"/{name.replace('~', '~0').replace('/', '~1')}" for name in names)


def _field_errors(
    broken: jsonschema_rs.ValidationError, at: str, known: Sequence[str]
) -> list[FieldError]:
    base = at + pointer_of(broken.instance_path)
    kind = broken.kind
    kinds = jsonschema_rs.ValidationErrorKind
    if isinstance(kind, kinds.AdditionalProperties | kinds.UnevaluatedProperties):
        fields = known if base == at else ()
        return [
            FieldError(
                pointer=base + pointer_of([name]),
                detail=_unknown(name, fields),
                code="unknown_field",
            )
            for name in kind.unexpected[:_MAX_ERRORS]
        ]
    if isinstance(kind, kinds.Required):
        base += pointer_of([str(kind.property)])
        detail = f"{str(kind.property)!r} is required"
    elif isinstance(kind, kinds.Enum):
        listed = ", ".join(json.dumps(each, ensure_ascii=False) for each in kind.options)
        value = _cut(json.dumps(broken.instance, ensure_ascii=False), _MAX_NAME)
        detail = f"{value} is not one of {listed}"
    elif isinstance(kind, kinds.Pattern) and kind.pattern == r"\S":
        detail = "it is blank; write at least one word"
    else:
        detail = _cut(broken.message, 300)
    return [FieldError(pointer=base, detail=detail, code=kind.name)]


def _refused_whole(target: Target, at: str, reason: str, code: str) -> InvalidInput:
    detail = f"{reason}: GET /v1/models/{target.model} shows its input_schema and an example"
    return field_error(at, detail, code)


def _unknown(name: str, known: Sequence[str]) -> str:
    near = closest(name, known[:_MAX_ALIKE], n=1)
    if near:
        hint = f"; did you mean {near[0]!r}?"
    else:
        hint = f"; there are {', '.join(known[:20])}" if known else ""
    return f"there is no field {name[:60]!r}{hint}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _default(cards: Sequence[ModelCard]) -> ModelCard | None:
    """Return the newest live card, or else the newest that is not retired."""
    live = (card for card in cards if card.stage == "live")
    return next(live, None) or next((card for card in cards if card.stage != "retired"), None)
