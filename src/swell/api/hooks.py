"""Webhooks of one backend: what it checks, what it tells, and who sends it.

Every backend writes what is to be told, in the store. One of them sends, the leader of the duty
`webhooks`.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from importlib.metadata import version as version_of
from typing import Any, Final

import msgspec
import structlog

from swell.addresses.outbound import Outbound
from swell.addresses.urls import RefusedUrl, UrlPolicy
from swell.api.auth import why_not
from swell.api.early import files_told
from swell.api.endpoints import Endpoint, Endpoints, EndpointState
from swell.api.hook_bodies import SO_FAR, Form, Seal, SealOf, written
from swell.api.hook_secrets import DEFAULT_SECRET, HookSecrets, SigningPair
from swell.api.messages import WebhookRequest
from swell.api.metrics import Metrics
from swell.api.settings import Backend
from swell.api.views import UrlMaker
from swell.db.deliveries import Outbox
from swell.errors import FieldError, InvalidInput, SwellError
from swell.events import ATTEMPT_STRIDE, Event, EventKind
from swell.outbox import Delivery, Post, says_passing
from swell.registry import ApiKey
from swell.webhook import NATIVE, PASSING, Webhook
from swell.webhooks.dispatcher import Dispatcher, DispatcherSettings, Unsendable
from swell.webhooks.send import HttpSender, Letter

_log = structlog.get_logger("swell.webhooks")

#: Of one task and kind, what passes by is told at most so often, in seconds.
PASSING_EVERY_S: Final = 0.5
#: So many tasks are remembered for that.
_MOST_PASSING: Final = 10_000

#: A secret, or whether keys work, that was read is good for so long, in seconds.
_SECRET_S: Final = 2.0
_MOST_SECRETS: Final = 1000

_RELEASE: Final = version_of("swell")


class Hooks:
    """What a backend does about webhooks.

    Args:
        backend: What it stands on.
        outbox: Of the backend.
        forms: How bodies are written, by name.
        seals: What signs them besides, by the same names.
        metrics: Where outcomes are counted.
    """

    def __init__(
        self,
        backend: Backend,
        outbox: Outbox,
        forms: Mapping[str, Form],
        seals: Mapping[str, SealOf],
        metrics: Metrics,
    ) -> None:
        settings = backend.settings
        self._forms = forms
        self.outbox = outbox
        self.settings = settings.webhooks
        self.secrets = HookSecrets(backend.registry, backend.clock)
        self.endpoints = Endpoints(backend.registry, outbox, backend.clock)
        made = {name: seal(backend.registry) for name, seal in seals.items()}
        self.receivers = _Receivers(backend, self.endpoints, self.secrets, forms, made, metrics)
        self._clock = backend.clock
        self._store = backend.store
        self._bus = backend.bus
        #: Running task → whether somebody wants to be told what passes by.
        self._wants: dict[str, bool] = {}
        self._telling: set[asyncio.Task[None]] = set()
        #: (task, kind) → when it was told last, in monotonic seconds.
        self._told_s: dict[tuple[str, str], float] = {}
        #: (task, kind) → the newest that came too soon after another; it is told when that is over.
        self._held: dict[tuple[str, str], Event] = {}
        chosen = settings.webhooks
        self.policy = UrlPolicy.of(chosen.allow_private_urls, chosen.url_ports, "webhooks")
        outbound = Outbound(self.policy, chosen.timeout_s, connections=0)
        self.dispatcher = Dispatcher(
            outbox,
            backend.clock,
            HttpSender(outbound, backend.clock, _RELEASE),
            self.receivers,
            DispatcherSettings(
                schedule_s=chosen.schedule_s,
                at_once=chosen.at_once,
                per_place=chosen.per_receiver,
            ),
        )
        outbox.on_post(self.dispatcher.wake)

    async def stop(self) -> None:
        """Let attempts end, for a moment."""
        for each in self._telling:
            each.cancel()
        try:
            await self.dispatcher.stop()
        except SwellError as error:
            _log.warning("what came of webhooks was not kept", detail=error.detail)

    async def waiting(self) -> tuple[int, float]:
        """Return how many deliveries wait, and how old the oldest's event is, in seconds."""
        backlog = await self.outbox.backlog()
        if backlog.oldest_at is None:
            return backlog.waiting, 0.0
        return backlog.waiting, (self._clock.now() - backlog.oldest_at).total_seconds()

    def checked(self, asked: str | WebhookRequest, base: str, at: str) -> Webhook:
        """Return what a caller wants to be told, if it can be.

        Args:
            asked: A URL, or more.
            base: Scheme and host by which the caller knows this service.
            at: JSON pointer to it.

        Raises:
            InvalidInput: The URL may not be called, there is no such event or format, or the
                format has no words for an event.
        """
        request = WebhookRequest(url=asked) if isinstance(asked, str) else asked
        where = at if isinstance(asked, str) else at + "/url"
        self.check_format(request.format, request.events, at)
        return Webhook(
            url=checked_url(self.policy, request.url, where),
            events=tuple(dict.fromkeys(request.events)),
            format=request.format,
            secret=request.secret,
            base=base,
        )

    def check_format(self, form: str, events: Sequence[str], at: str) -> None:
        """Check that bodies of these events can be written in a format.

        Args:
            form: Its name.
            events: What is to be told.
            at: JSON pointer to the object that names both.

        Raises:
            InvalidInput: There is no such format, or it has no words for an event.
        """
        if form not in self._forms:
            told = ", ".join(sorted(self._forms))
            raise _refused(at + "/format", f"there is no format {form[:40]!r}: use {told}")
        known = self._forms[form].events
        for place, event in enumerate(events):
            if event not in known:
                raise _refused(
                    f"{at}/events/{place}",
                    f"the format {form!r} has no words for {event!r}, only for {', '.join(known)}: "
                    f"leave {event!r} out, or use the format {NATIVE!r}",
                )

    async def check_secret(self, key_id: str, name: str, at: str) -> None:
        """Check that a key has a signing secret of this name.

        Raises:
            InvalidInput: It has not.
        """
        if name != DEFAULT_SECRET and await self.secrets.of(key_id, name) is None:
            how = f"POST /v1/webhooks/secrets/{name}/rotate makes it"
            raise _refused(at, f"this key has no signing secret {name!r}: {how}")

    def pass_on(self, events: Sequence[Event]) -> None:
        """Tell what passes by of running tasks to whoever wants it. What cannot be told is lost.

        What comes too soon after another of its task and kind waits, and gives way to what is
        newer.
        """
        fresh = []
        for each in events:
            if each.kind in PASSING and self._wants.get(each.task_id, True):
                left_s = self._left_s(each)
                if left_s > 0:
                    self._hold(each, left_s)
                else:
                    self._note_told(each)
                    fresh.append(each)
        if fresh:
            self._spawn(self._pass_on(fresh))

    def _hold(self, event: Event, left_s: float) -> None:
        key = _line_of(event)
        is_first = key not in self._held
        self._held[key] = event
        if is_first:
            self._spawn(self._pass_on_later(key, left_s))

    async def _pass_on_later(self, key: tuple[str, str], left_s: float) -> None:
        await self._clock.sleep(left_s)
        event = self._held.pop(key)
        self._note_told(event)
        await self._pass_on([event])

    def _spawn(self, telling: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(telling, name="webhooks")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _pass_on(self, events: Sequence[Event]) -> None:
        try:
            await self._ask([each.task_id for each in events if each.task_id not in self._wants])
            posts = [
                Post(
                    task_id=each.task_id,
                    attempt=each.id // ATTEMPT_STRIDE,
                    event=each.kind.value,
                    data=self._told(each),
                )
                for each in events
                if self._wants.get(each.task_id)
            ]
            if posts:
                await self.outbox.post(posts)
        except SwellError as error:
            _log.info("events: activity was not published", detail=error.detail)
        except Exception:
            _log.exception("events: activity was not published")

    def _told(self, event: Event) -> dict[str, Any]:
        """Return what is told with an event: with a file all that are there, in their order."""
        if event.kind is not EventKind.ARTIFACT:
            return event.data
        first = event.id // ATTEMPT_STRIDE * ATTEMPT_STRIDE
        before = [e for e in self._bus.remembered(event.task_id, after=first) if e.id <= event.id]
        return {**event.data, SO_FAR: msgspec.to_builtins(files_told(before))}

    async def _ask(self, task_ids: Sequence[str]) -> None:
        """Find out of which tasks somebody wants to be told what passes by."""
        if not task_ids:
            return
        if len(self._wants) >= _MOST_PASSING:
            self._wants.clear()
        watches = [each.watch for each in self.endpoints.all()]
        for task in await self._store.get(list(dict.fromkeys(task_ids))):
            if task is not None:
                self._wants[task.id] = says_passing(task, watches)

    def _left_s(self, event: Event) -> float:
        """Return how long an event comes too soon after another; 0 or less where it does not."""
        key, now_s = _line_of(event), self._clock.monotonic_s()
        if key in self._held:
            return PASSING_EVERY_S
        return self._told_s.get(key, now_s - PASSING_EVERY_S) + PASSING_EVERY_S - now_s

    def _note_told(self, event: Event) -> None:
        if len(self._told_s) >= _MOST_PASSING:
            self._told_s.clear()
        self._told_s[_line_of(event)] = self._clock.monotonic_s()


class _Receivers:
    """Who gets what, for the dispatcher."""

    def __init__(
        self,
        backend: Backend,
        endpoints: Endpoints,
        secrets: HookSecrets,
        forms: Mapping[str, Form],
        seals: Mapping[str, Seal],
        metrics: Metrics,
    ) -> None:
        self._backend = backend
        self._forms = forms
        self._seals = seals
        self._endpoints = endpoints
        self._secrets = secrets
        self._metrics = metrics
        #: (key, name) → (good until, in monotonic seconds; the secret).
        self._read: dict[tuple[str, str], tuple[float, SigningPair]] = {}
        #: (good until, in monotonic seconds; all keys, by id).
        self._keys: tuple[float, dict[str, ApiKey]] = (0.0, {})

    async def letter(self, delivery: Delivery) -> Letter:
        (task,) = await self._backend.store.get([delivery.task_id])
        if task is None:
            raise Unsendable("the task is not kept any longer")
        now = self._backend.clock.now()
        if delivery.endpoint:
            endpoint = await self._endpoint(delivery.endpoint)
            url, form, base = endpoint.url, endpoint.format, endpoint.base
            pair = endpoint.signing
        elif task.webhook is not None:
            hook = task.webhook
            reason = await self._why_not(task.key_id)
            if reason is not None:
                raise Unsendable(f"the key that created it no longer has access: {reason}")
            url, form, base = hook.url, hook.format, hook.base
            pair = await self._secret(task.key_id, hook.secret)
        else:
            raise Unsendable("the task names no webhook")
        if form not in self._forms:
            raise Unsendable(f"this backend knows no format {form!r}")
        if delivery.event not in self._forms[form].events:
            # It was asked for before that was refused.
            raise Unsendable(f"the format {form!r} has no words for {delivery.event!r}")
        body = written(self._forms[form], delivery, task, self._urls(base))
        seal = self._seals.get(form)
        headers = {} if seal is None else await seal.headers(delivery, task, body, now)
        return Letter(
            url=url,
            body=body,
            signing=pair.signing(now),
            headers=headers,
            inputs_removed=task.inputs_removed,
            outputs_removed=task.outputs_removed,
        )

    def paused(self) -> list[str]:
        return self._endpoints.paused()

    async def gone(self, delivery: Delivery) -> None:
        if delivery.endpoint:
            disabled = EndpointState.DISABLED
            reason = "it answered 410 Gone"
            await self._endpoints.set_state(delivery.endpoint, disabled, reason, but=delivery.id)
            _log.warning("an endpoint wants nothing any more", endpoint=delivery.endpoint)

    def told(self, delivery: Delivery) -> None:
        is_over = delivery.due_at is None
        outcome = delivery.state.value if is_over else "retried"
        counts = self._metrics.webhooks
        counts[outcome] = counts.get(outcome, 0) + 1

    async def _endpoint(self, endpoint_id: str) -> Endpoint:
        known = self._endpoints.get(endpoint_id) or await self._endpoints.read(endpoint_id)
        if known is None:
            raise Unsendable("the endpoint was deleted")
        if known.state is EndpointState.DISABLED:
            raise Unsendable(f"the endpoint was disabled: {known.reason}")
        reason = await self._why_not(known.key_id)
        if reason is not None:
            await self._endpoints.set_state(endpoint_id, EndpointState.DISABLED, reason)
            _log.warning("an endpoint was disabled", endpoint=endpoint_id, reason=reason)
            raise Unsendable(f"the endpoint was disabled: {reason}")
        return known

    async def _why_not(self, key_id: str) -> str | None:
        """Return why a key works no more; None where it does."""
        now_s = self._backend.clock.monotonic_s()
        until_s, keys = self._keys
        if now_s >= until_s:
            keys = {each.id: each for each in await self._backend.registry.keys()}
            self._keys = (now_s + _SECRET_S, keys)
        key = keys.get(key_id)
        return None if key is None else why_not(key, key.digest, self._backend.clock.now())

    async def _secret(self, key_id: str, name: str) -> SigningPair:
        now_s = self._backend.clock.monotonic_s()
        read = self._read.get((key_id, name))
        if read is not None and now_s < read[0]:
            return read[1]
        pair = await self._secrets.of(key_id, name)
        if pair is None:
            raise Unsendable(f"the key has no signing secret {name!r}")
        if len(self._read) >= _MOST_SECRETS:
            self._read.clear()
        self._read[key_id, name] = (now_s + _SECRET_S, pair)
        return pair

    def _urls(self, base: str) -> UrlMaker:
        settings = self._backend.settings
        return UrlMaker(
            (settings.server.public_url or base).rstrip("/"),
            self._backend.objects,
            settings.server.signed_url_s,
            shows_trace=settings.telemetry.in_tasks,
        )


def _line_of(event: Event) -> tuple[str, str]:
    return event.task_id, event.kind.value


def checked_url(policy: UrlPolicy, url: str, at: str) -> str:
    """Return a URL to which something may be sent, as far as can be told without asking for it.

    Args:
        policy: What may be called.
        url: As it was given.
        at: JSON pointer to it.

    Raises:
        InvalidInput: Nothing is sent there.
    """
    try:
        return policy.check(url).url
    except RefusedUrl as error:
        raise _refused(at, error.detail) from error


def _refused(at: str, detail: str) -> InvalidInput:
    return InvalidInput(
        f"{at}: {detail}", errors=[FieldError(pointer=at, detail=detail, code="webhook")]
    )
