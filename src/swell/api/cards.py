"""Which models there are, and whether an input fits one.

Cards are kept at hand and read again when a name is not found or when they have grown old, so that
every backend soon knows what was registered through another.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import jsonschema_rs
import msgspec

from swell.adoption.kept import read_lives
from swell.adoption.life import Canary, Life
from swell.adoption.traffic import asked_version, is_of_canary, queues_of
from swell.api.call import Call
from swell.api.json_limits import MAX_VALUES, count_values
from swell.api.problems import closest
from swell.card_limits import compile_schema, rules_of
from swell.clock import Clock
from swell.db.registry import Registry
from swell.degrade import is_drawing
from swell.errors import FieldError, InvalidInput, InvalidRequest, NotFound, NoWorker
from swell.registry import ModelCard
from swell.sdk.multi_sample_inputs import packs_in, size_of

#: How long cards are taken as current, in seconds.
_FRESH_S = 5.0

#: Larger ones cannot be recorded.
_MOST_SEED = 2**63 - 1

#: How many broken fields one answer lists.
_MAX_ERRORS = 50

#: Most checks of one input, and of all inputs of one request: values times rules of the schema, and
#: what its patterns take. One takes 0.2 µs or less, with rare numbers 0.6 µs.
_MAX_CHECKS = 400_000
_MAX_REQUEST_CHECKS = 5_000_000

#: So much of a text matched against a small pattern takes as long as one check, in bytes.
_BYTES_PER_CHECK = 256

#: Most digits of an integer: to check one takes time in proportion to their square.
_MAX_DIGITS = 100
_DIGITS_AS_ZEROS = bytes(ord("0") if chr(byte).isdecimal() else byte for byte in range(128))
_DIGITS_AS_ZEROS += bytes(range(128, 256))
_LONG_INTEGER = re.compile(rb"[:,\[]\s*-?[0-9]{%d}" % (_MAX_DIGITS + 1))

#: Fewer checks than these are not counted exactly.
_FEW_CHECKS = 5000

#: Most values of an input times rules for which the answer lists every broken field.
_MAX_EXPLAINED = 20_000

#: An unknown field is compared with so many of the known ones.
_MAX_ALIKE = 200

#: Longest name in a JSON pointer, in characters.
_MAX_NAME = 200

_decode = msgspec.json.Decoder().decode


class _Seeded(msgspec.Struct):
    """The seed of an input, to read it alone."""

    seed: Any = msgspec.UNSET


_decode_seed = msgspec.json.Decoder(_Seeded).decode

#: Whether the canary of a model has workers.
HasWorkers = Callable[[str, Canary], bool]


class Target(msgspec.Struct, frozen=True):
    """What a request's `model` means."""

    #: `owner/name`.
    model: str
    #: `owner/name`, or `owner/name:version` where the caller insists on one.
    queue: str
    card: ModelCard
    #: The version that has to be served: the one that is insisted on, or the live one of a model
    #: that was staged; None for any.
    needed_version: str | None = None
    #: Whether inputs may have a seed of their own.
    may_have_seed: bool = False

    @property
    def pinned_version(self) -> str | None:
        """The version that the caller insists on."""
        return None if self.queue == self.model else self.card.version


class _Check:
    """A compiled schema."""

    __slots__ = ("packs", "rules", "takes_anything", "validator")

    def __init__(self, schema: dict[str, Any]) -> None:
        self.validator = compile_schema(schema)
        self.rules = rules_of(schema)
        self.takes_anything = not schema
        self.packs = packs_in(schema)

    def can_explain(self, raw: msgspec.Raw) -> bool:
        """Whether every broken field of an input can be listed soon."""
        # In a schema that refers to itself, it may take exponential time.
        checks = count_values(bytes(raw)) * self.rules.schemas
        return not self.rules.is_recursive and checks <= _MAX_EXPLAINED

    def enter(self, raw: msgspec.Raw, call: Call | None) -> bool:
        """Count the checks of an input for its request; return whether they are few enough."""
        # A value takes at least two bytes, and no body has more values than these.
        checks = self._checks(len(raw), min(MAX_VALUES, 1 + len(raw) // 2))
        if checks > _FEW_CHECKS:
            checks = self._checks(len(raw), 1 + count_values(bytes(raw)))
        if checks > _MAX_CHECKS:
            return False
        if call is None:
            return True
        call.checked += checks
        return call.checked <= _MAX_REQUEST_CHECKS

    def _checks(self, n_bytes: int, n_values: int) -> int:
        matched = sum(
            each.weight * min(n_bytes, each.longest_bytes * n_values)
            for each in self.rules.patterns
        )
        return self.rules.schemas * n_values + matched // _BYTES_PER_CHECK


class Cards:
    """An index of the registry's cards."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._versions: dict[str, list[ModelCard]] = {}
        self._targets: dict[str, Target] = {}
        self._checks: dict[tuple[str, str], _Check] = {}
        #: Model → how its versions are adopted, of those that were staged.
        self.lives: dict[str, Life] = {}
        #: Model → its live version, of those that were staged. The same dictionary for ever.
        self.live_versions: dict[str, str] = {}
        #: Model → its canary, of those that have one.
        self.canaries: dict[str, Canary] = {}
        #: Models of which an input may ask for several samples (`swell.sdk.multi_sample_inputs`).
        self.packed: frozenset[str] = frozenset()
        #: Models of which an input may say how much is drawn (`swell.degrade`).
        self.drawing: frozenset[str] = frozenset()
        #: Whether workers of this process are starting, so that models may be missing still.
        self.is_starting = False
        #: Pipeline that is declared and has no card → why.
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
            NotFound: No such model.
        """
        await self._refresh(_FRESH_S)
        if model not in self._versions:
            await self._refresh(1.0)
        if model not in self._versions:
            self._refuse(model)
        return self._versions[model]

    def known(self, ref: str) -> Target | None:
        """Return what a reference means, if that was looked up a moment ago."""
        if self._clock.monotonic_s() - self._read_at_s < _FRESH_S:
            return self._targets.get(ref)
        return None

    async def target(self, ref: str) -> Target:
        """Return what `owner/name` or `owner/name:version` means.

        Raises:
            NotFound: No such model or version.
        """
        return self.known(ref) or await self._find(ref)

    def find(self, ref: str) -> ModelCard | None:
        """Return the card that a reference means, among those that were read last."""
        target = self._make_target(ref)
        return None if target is None else target.card

    async def refresh(self) -> None:
        """Read the registry now."""
        await self._refresh(0.0)

    async def registered(self, model: str, version: str) -> ModelCard | None:
        """Return a version, whatever its stage; None if it was never registered."""
        await self._refresh(_FRESH_S)
        cards = self._versions.get(model, ())
        return next((card for card in cards if card.version == version), None)

    async def hear_lives(self) -> None:
        """Read how versions are adopted; where that has changed, read the registry."""
        if await read_lives(self._registry) != self.lives:
            await self.refresh()

    def check_input(self, call: Call, target: Target, raw: msgspec.Raw, at: str = "/input") -> None:
        """Check an input against its model's schema.

        Raises:
            InvalidInput: It breaks the schema, or it or all inputs of the request take too long to
                check. Every broken field is listed, unless that takes too long.
            InvalidRequest: It is not JSON.
        """
        card = target.card
        check = self._check(card)
        try:
            value = _decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(f"the value at {at} is not JSON in UTF-8: {error}") from error
        if type(value) is not dict:
            detail = 'an input is an object of the model\'s fields, such as {"prompt": "…"}'
            raise InvalidInput(detail, errors=[FieldError(pointer=at, detail=detail, code="type")])
        if check.takes_anything:
            return
        if _has_long_integer(raw):
            why = f"the input has an integer of more than {_MAX_DIGITS} digits"
            raise _refused_whole(target, at, why, "too_large")
        if not check.enter(raw, call):
            what = "the input is" if call.checked <= _MAX_REQUEST_CHECKS else "these inputs are"
            why = f"{what} too large to check against the schema: send less at once"
            raise _refused_whole(target, at, why, "too_large")
        try:
            if not check.validator.is_valid(value):
                if not check.can_explain(raw):
                    why = "the input breaks the schema; it is too large to list the broken fields"
                    if check.rules.is_recursive:
                        why = (
                            "the input breaks the schema, which refers to itself: the broken "
                            "fields of such a schema are not listed"
                        )
                    raise _refused_whole(target, at, why, "schema")
                self._explain(target, check, value, at)
        except ValueError as error:
            # The validator looks only some hundred levels deep.
            detail = "it is nested too deeply to be checked: send it with fewer levels"
            where = FieldError(pointer=at, detail=detail, code="depth")
            raise InvalidInput(f"{at}: {detail}", errors=[where]) from error

    def takes(self, ref: str, raw: msgspec.Raw, call: Call | None = None) -> bool:
        """Whether an input, which fits another version, fits the one that a reference means.

        An input that cannot be checked does not. Its checks count for the request of `call`.
        """
        card = self.find(ref)
        if card is None:
            return False
        check = self._check(card)
        try:
            return check.takes_anything or (
                not _has_long_integer(raw)
                and check.enter(raw, call)
                and check.validator.is_valid(_decode(raw))
            )
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return False

    def served_version(self, queue: str, has_workers: HasWorkers) -> str | None:
        """Return the version whose workers serve a queue; None for any.

        Args:
            queue: Which.
            has_workers: Whether a model's canary has workers.
        """
        model, _, version = queue.partition(":")
        life = self.lives.get(model)
        if life is None:
            return version or None
        canary = life.canary
        if is_of_canary(queue) and canary is not None and has_workers(model, canary):
            return canary.version
        return asked_version(queue) or life.live

    def queues_served(
        self, model: str, versions: Iterable[str], has_workers: HasWorkers
    ) -> tuple[str, ...]:
        """Return the queues that workers with one of some versions serve of a staged model."""
        life = self.lives[model]
        is_served = life.canary is not None and has_workers(model, life.canary)
        found = (queues_of(life, each, is_canary_served=is_served) for each in versions)
        return tuple(dict.fromkeys(queue for queues in found for queue in queues))

    def pack_size(self, queue: str, value: Mapping[str, Any]) -> int:
        """Return how many samples an input asks for, by the version that a queue's tasks get."""
        card = self.of_queue(queue)
        return 1 if card is None else size_of(self._check(card).packs, value)

    def of_queue(self, queue: str) -> ModelCard | None:
        """Return the card of the version that a queue's tasks get."""
        model, _, version = queue.partition(":")
        if is_of_canary(queue):
            canary = self.canaries.get(model)
            version = "" if canary is None else canary.version
        return self.find(f"{model}:{version}" if version else model)

    def _check(self, card: ModelCard) -> "_Check":
        key = (card.name, card.version)
        check = self._checks.get(key)
        if check is None:
            check = self._checks[key] = _Check(card.input_schema)
        return check

    def _explain(self, target: Target, check: _Check, value: Any, at: str) -> NoReturn:
        known = list(target.card.input_schema.get("properties", {}))
        errors: list[FieldError] = []
        for broken in check.validator.iter_errors(value):
            errors.extend(_field_errors(broken, at, known))
            if len(errors) >= _MAX_ERRORS:
                break
        first = f"{errors[0]['pointer']}: {errors[0]['detail']}" if errors else "see its schema"
        raise InvalidInput(
            f"the input does not fit {target.model}: {first}{'' if first.endswith('?') else '.'} "
            f"GET /v1/models/{target.model} shows its input_schema and an example",
            errors=errors[:_MAX_ERRORS],
        )

    async def _find(self, ref: str) -> Target:
        await self._refresh(_FRESH_S)
        target = self._targets.get(ref) or self._make_target(ref)
        if target is None:
            # It may have been registered through another backend a moment ago.
            await self._refresh(1.0)
            target = self._make_target(ref)
        if target is None:
            self._refuse(ref)
        self._targets[ref] = target
        return target

    def _make_target(self, ref: str) -> Target | None:
        model, _, version = ref.partition(":")
        cards = self._versions.get(model, [])
        if not version:
            card = _default(cards)
            life = self.lives.get(model)
            needed = None if life is None else life.live
            if card is None or ":" in ref:
                return None
            return Target(model, model, card, needed, _may_have_seed(card))
        for card in cards:
            if card.version == version and card.stage != "retired":
                return Target(model, ref, card, version, _may_have_seed(card))
        return None

    def _refuse(self, ref: str) -> NoReturn:
        model, _, version = ref.partition(":")
        known = sorted(self._versions)
        if version and model in self._versions:
            running = (card for card in self._versions[model] if card.stage != "retired")
            there = ", ".join(card.version for card in running)[:200] or "none"
            raise NotFound(
                f"{model} has no version {version[:60]!r} that runs; there are: {there}. Leave the "
                f"version out for the newest"
            )
        if model in self.lacks:
            raise NotFound(f"the pipeline {model} cannot be used yet: {self.lacks[model]}")
        if self.is_starting:
            raise NoWorker(
                f"Swell is starting: no worker has registered {model[:120]!r} yet. Try again in a "
                "few seconds"
            )
        near = closest(model, known)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        there = f"this server knows {', '.join(known[:10])}" if known else "none is served yet"
        raise NotFound(
            f"there is no model {ref[:120]!r}: {hint}{there}. To serve it, start a worker with "
            "`swell worker --models FILE.py` or `swell up --models FILE.py`"
        )

    def _take_lives(self, lives: dict[str, Life]) -> None:
        self.lives = lives
        self.live_versions.clear()
        self.live_versions.update((model, life.live) for model, life in lives.items())
        self.canaries = {
            model: life.canary for model, life in lives.items() if life.canary is not None
        }
        self._targets = {}

    async def _refresh(self, older_than_s: float) -> None:
        asked_at_s = self._clock.monotonic_s()
        if asked_at_s - self._read_at_s < older_than_s:
            return
        async with self._reading:
            # Whoever held the lock may just have read what we were about to read.
            if older_than_s > 0 and asked_at_s - self._read_at_s < older_than_s:
                return
            versions: dict[str, list[ModelCard]] = {}
            lives = await read_lives(self._registry)
            for card in await self._registry.models():
                life = lives.get(card.name)
                if life is not None:
                    card = msgspec.structs.replace(card, stage=life.stage(card.version).value)
                versions.setdefault(card.name, []).append(card)
            self._versions = versions
            self.packed = frozenset(
                name
                for name, cards in versions.items()
                if any(packs_in(card.input_schema) for card in cards)
            )
            self.drawing = frozenset(
                name
                for name, cards in versions.items()
                if any(is_drawing(card.input_schema) for card in cards)
            )
            self._take_lives(lives)
            self._read_at_s = asked_at_s


def own_seed(card: ModelCard, raw: msgspec.Raw) -> int | None:
    """Return the seed that an input has itself, or that its model takes for it; None for none.

    What is below 0 counts as none, as it does in a worker.

    Args:
        card: Of the model, which takes seeds.
        raw: The input, which was checked.
    """
    found = card.input_schema["properties"]["seed"].get("default")
    if b'"seed"' in bytes(raw):
        given = _decode_seed(raw).seed
        found = found if given is msgspec.UNSET else given
    is_seed = isinstance(found, int) and not isinstance(found, bool)
    return found if is_seed and 0 <= found <= _MOST_SEED else None


def _may_have_seed(card: ModelCard) -> bool:
    return isinstance((card.input_schema.get("properties") or {}).get("seed"), dict)


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
    code = kind.name
    kinds = jsonschema_rs.ValidationErrorKind
    if isinstance(kind, kinds.AdditionalProperties | kinds.UnevaluatedProperties):
        return [
            FieldError(
                pointer=base + pointer_of([name]),
                detail=_unknown(name, known if base == at else ()),
                code="unknown_field",
            )
            for name in kind.unexpected[:_MAX_ERRORS]
        ]
    if isinstance(kind, kinds.Required):
        name = str(kind.property)
        detail = f"{name!r} is required"
        return [FieldError(pointer=base + pointer_of([name]), detail=detail, code="required")]
    if isinstance(kind, kinds.Enum):
        listed = ", ".join(json.dumps(each, ensure_ascii=False) for each in kind.options)
        detail = f"{_short_value(broken.instance)} is not one of {listed}"
        return [FieldError(pointer=base, detail=detail, code=code)]
    if isinstance(kind, kinds.Pattern) and kind.pattern == r"\S":
        detail = "it is blank; write at least one word"
        return [FieldError(pointer=base, detail=detail, code=code)]
    return [FieldError(pointer=base, detail=_short(broken.message), code=code)]


def _has_long_integer(raw: msgspec.Raw) -> bool:
    data = bytes(raw)
    zeros = b"0" * (_MAX_DIGITS + 1)
    return zeros in data.translate(_DIGITS_AS_ZEROS) and bool(_LONG_INTEGER.search(data))


def _refused_whole(target: Target, at: str, why: str, code: str) -> InvalidInput:
    detail = f"{why}: GET /v1/models/{target.model} shows its input_schema and an example"
    where = FieldError(pointer=at, detail=detail, code=code)
    return InvalidInput(f"{at}: {detail}", errors=[where])


def _unknown(name: str, known: Sequence[str]) -> str:
    near = closest(name, known[:_MAX_ALIKE], n=1)
    if near:
        return f"there is no field {name[:60]!r}; did you mean {near[0]!r}?"
    if known:
        return f"there is no field {name[:60]!r}; there are {', '.join(known[:20])}"
    return f"there is no field {name[:60]!r}"


def _short_value(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_NAME else text[: _MAX_NAME - 1] + "…"


def _short(message: str) -> str:
    return message if len(message) <= 300 else message[:297] + "…"


def _default(cards: Sequence[ModelCard]) -> ModelCard | None:
    """Return the newest live card, else the newest that is not retired."""
    for card in cards:
        if card.stage == "live":
            return card
    return next((card for card in cards if card.stage != "retired"), None)
