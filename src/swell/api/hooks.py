"""Webhooks of one backend: checks of requests, events of running tasks, and their delivery.

Every backend writes deliveries to the store. The leader of the duty `webhooks` sends them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
from swell.api.hook_secrets import DEFAULT_SECRET, HookSecrets
from swell.api.metrics import Metrics
from swell.api.settings import Backend
from swell.api.tasks_schemas import WebhookRequest
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

#: Least time between events of one kind while a task runs, in seconds.
_EVENT_INTERVAL_S: Final = 0.5
#: Most running tasks for which the backend remembers whether anyone subscribed.
_MAX_TASKS: Final = 10_000

#: Secrets and keys are read again after this time, in seconds.
_CACHE_S: Final = 2.0
_MAX_CACHED: Final = 1000

_RELEASE: Final = version_of("swell")


class Hooks:
    """Webhooks of one backend.

    Args:
        backend: Stores, clock and settings.
        outbox: Holds deliveries.
        forms: Body formats by name.
        seals: Additional signatures by name of the format.
        metrics: Counts outcomes.
    """

    def __init__(
        self,
        backend: Backend,
        outbox: Outbox,
        forms: Mapping[str, Form],
        seals: Mapping[str, SealOf],
        metrics: Metrics,
    ) -> None:
        self.settings = backend.settings.webhooks
        self.outbox = outbox
        self.secrets = HookSecrets(backend.registry, backend.clock)
        self.endpoints = Endpoints(backend.registry, outbox, backend.clock)
        self._forms = forms
        self._clock = backend.clock
        self._store = backend.store
        self._bus = backend.bus
        #: Running task → whether anyone subscribed to events before its end.
        self._subscribed: dict[str, bool] = {}
        #: (task, kind) → the newest event that was not sent; None if all were sent.
        self._pending: dict[tuple[str, str], Event | None] = {}
        self._senders: set[asyncio.Task[None]] = set()
        made = {name: seal(backend.registry) for name, seal in seals.items()}
        receivers = _Receivers(backend, self.endpoints, self.secrets, forms, made, metrics)
        chosen = self.settings
        self.policy = UrlPolicy.of(chosen.allow_private_urls, chosen.url_ports, "webhooks")
        outbound = Outbound(self.policy, chosen.timeout_s, connections=0)
        self.dispatcher = Dispatcher(
            outbox,
            backend.clock,
            HttpSender(outbound, backend.clock, _RELEASE),
            receivers,
            DispatcherSettings(
                schedule_s=chosen.schedule_s,
                at_once=chosen.at_once,
                per_place=chosen.per_receiver,
            ),
        )
        outbox.on_post(self.dispatcher.wake)

    async def stop(self) -> None:
        """Stop; attempts under way get a short time to end."""
        for each in self._senders:
            each.cancel()
        try:
            await self.dispatcher.stop()
        except SwellError as error:
            _log.warning("webhooks: outcomes of attempts were not stored", detail=error.detail)

    async def waiting(self) -> tuple[int, float]:
        """Return the number of waiting deliveries, and the age of the oldest event in seconds."""
        backlog = await self.outbox.backlog()
        if backlog.oldest_at is None:
            return backlog.waiting, 0.0
        return backlog.waiting, (self._clock.now() - backlog.oldest_at).total_seconds()

    def checked(self, asked: str | WebhookRequest, base: str, at: str) -> Webhook:
        """Return the webhook of a request.

        Args:
            asked: A URL, or more.
            base: Scheme and host of this service in the request.
            at: JSON pointer to it.

        Raises:
            InvalidInput: The URL is not allowed, the event or format does not exist, or the format
                has no body for an event.
        """
        request = WebhookRequest(url=asked) if isinstance(asked, str) else asked
        self.check_format(request.format, request.events, at)
        where = at if isinstance(asked, str) else at + "/url"
        return Webhook(
            url=checked_url(self.policy, request.url, where),
            events=tuple(dict.fromkeys(request.events)),
            format=request.format,
            secret=request.secret,
            base=base,
        )

    def check_format(self, form: str, events: Sequence[str], at: str) -> None:
        """Check that a format has bodies for these events.

        Args:
            form: Name of the format.
            events: Names of the events.
            at: JSON pointer to the object with both.

        Raises:
            InvalidInput: The format does not exist, or has no body for an event.
        """
        if form not in self._forms:
            names = ", ".join(sorted(self._forms))
            raise _invalid(at + "/format", f"there is no format {form[:40]!r}: use {names}")
        known = self._forms[form].events
        for index, event in enumerate(events):
            if event not in known:
                raise _invalid(
                    f"{at}/events/{index}",
                    f"the format {form!r} has no words for {event!r}, only for {', '.join(known)}: "
                    f"leave {event!r} out, or use the format {NATIVE!r}",
                )

    async def check_secret(self, key_id: str, name: str, at: str) -> None:
        """Check that a key has a signing secret of this name.

        Raises:
            InvalidInput: It has none.
        """
        if name != DEFAULT_SECRET and await self.secrets.of(key_id, name) is None:
            how = f"POST /v1/webhooks/secrets/{name}/rotate makes it"
            raise _invalid(at, f"this key has no signing secret {name!r}: {how}")

    def pass_on(self, events: Sequence[Event]) -> None:
        """Post events of running tasks to subscribers, at most two a second of each task and kind.

        A newer event replaces one that waits. Events that cannot be posted are lost.
        """
        for event in events:
            if event.kind in PASSING and self._subscribed.get(event.task_id, True):
                line = (event.task_id, event.kind.value)
                is_idle = line not in self._pending
                self._pending[line] = event
                if is_idle:
                    sender = asyncio.create_task(self._send(line), name="webhooks")
                    self._senders.add(sender)
                    sender.add_done_callback(self._senders.discard)

    async def _send(self, line: tuple[str, str]) -> None:
        """Post the events of one task and kind until none is pending."""
        try:
            while (event := self._pending[line]) is not None:
                self._pending[line] = None
                await self._post(event)
                await self._clock.sleep(_EVENT_INTERVAL_S)
        finally:
            del self._pending[line]

    async def _post(self, event: Event) -> None:
        try:
            if await self._is_subscribed(event.task_id):
                post = Post(
                    task_id=event.task_id,
                    attempt=event.id // ATTEMPT_STRIDE,
                    event=event.kind.value,
                    data=self._data(event),
                )
                await self.outbox.post([post])
        except SwellError as error:
            _log.info("webhooks: event was not posted", detail=error.detail)
        except Exception:
            _log.exception("webhooks: event was not posted")

    def _data(self, event: Event) -> dict[str, Any]:
        """Return the data of an event; of a file, with all files of the attempt so far."""
        if event.kind is not EventKind.ARTIFACT:
            return event.data
        first = event.id // ATTEMPT_STRIDE * ATTEMPT_STRIDE
        before = [e for e in self._bus.history(event.task_id, after=first) if e.id <= event.id]
        return {**event.data, SO_FAR: msgspec.to_builtins(files_told(before))}

    async def _is_subscribed(self, task_id: str) -> bool:
        if task_id not in self._subscribed:
            if len(self._subscribed) >= _MAX_TASKS:
                self._subscribed.clear()
            (task,) = await self._store.get([task_id])
            watches = [each.watch for each in self.endpoints.all()]
            self._subscribed[task_id] = task is not None and says_passing(task, watches)
        return self._subscribed[task_id]


class _Receivers:
    """Makes the requests of deliveries, and records their outcomes, for the dispatcher."""

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
        #: Name → (end of its life in monotonic seconds, value).
        self._cache: dict[tuple[str, ...], tuple[float, Any]] = {}

    async def letter(self, delivery: Delivery) -> Letter:
        (task,) = await self._backend.store.get([delivery.task_id])
        if task is None:
            raise Unsendable("the task is not kept any longer")
        receiver: Endpoint | Webhook
        if delivery.endpoint:
            receiver = await self._endpoint(delivery.endpoint)
            pair = receiver.signing
        elif task.webhook is not None:
            receiver = task.webhook
            key_id, secret = task.key_id, task.webhook.secret
            reason = await self._why_not(key_id)
            if reason is not None:
                raise Unsendable(f"the key that created it no longer has access: {reason}")
            pair = await self._cached(
                ("secret", key_id, secret), lambda: self._secrets.of(key_id, secret)
            )
            if pair is None:
                raise Unsendable(f"the key has no signing secret {secret!r}")
        else:
            raise Unsendable("the task names no webhook")
        form = self._forms.get(receiver.format)
        if form is None:
            raise Unsendable(f"this backend knows no format {receiver.format!r}")
        if delivery.event not in form.events:
            raise Unsendable(f"the format {receiver.format!r} has no words for {delivery.event!r}")
        body = written(form, delivery, task, self._urls(receiver.base))
        now = self._backend.clock.now()
        seal = self._seals.get(receiver.format)
        return Letter(
            url=receiver.url,
            body=body,
            signing=pair.signing(now),
            headers={} if seal is None else await seal.headers(delivery, task, body, now),
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
            _log.warning("webhooks: endpoint answered 410 Gone", endpoint=delivery.endpoint)

    def told(self, delivery: Delivery) -> None:
        outcome = "retried" if delivery.due_at is not None else delivery.state.value
        self._metrics.count("swell_webhook_deliveries_total", outcome)

    async def _endpoint(self, endpoint_id: str) -> Endpoint:
        known = self._endpoints.get(endpoint_id) or await self._endpoints.read(endpoint_id)
        if known is None:
            raise Unsendable("the endpoint was deleted")
        if known.state is EndpointState.DISABLED:
            raise Unsendable(f"the endpoint was disabled: {known.reason}")
        reason = await self._why_not(known.key_id)
        if reason is not None:
            await self._endpoints.set_state(endpoint_id, EndpointState.DISABLED, reason)
            _log.warning("webhooks: endpoint disabled", endpoint=endpoint_id, reason=reason)
            raise Unsendable(f"the endpoint was disabled: {reason}")
        return known

    async def _why_not(self, key_id: str) -> str | None:
        """Return why a key no longer works; None if it works."""

        async def read() -> dict[str, ApiKey]:
            return {each.id: each for each in await self._backend.registry.keys()}

        key = (await self._cached(("keys",), read)).get(key_id)
        return None if key is None else why_not(key, key.digest, self._backend.clock.now())

    async def _cached(self, name: tuple[str, ...], read: Callable[[], Awaitable[Any]]) -> Any:
        now_s = self._backend.clock.monotonic_s()
        until_s, value = self._cache.get(name, (0.0, None))
        if now_s >= until_s:
            value = await read()
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[name] = (now_s + _CACHE_S, value)
        return value

    def _urls(self, base: str) -> UrlMaker:
        settings = self._backend.settings
        return UrlMaker(
            (settings.server.public_url or base).rstrip("/"),
            self._backend.objects,
            settings.server.signed_url_s,
            shows_trace=settings.telemetry.in_tasks,
        )


def checked_url(policy: UrlPolicy, url: str, at: str) -> str:
    """Return a URL that webhooks may call, without a request to it.

    Args:
        policy: Allowed URLs.
        url: The URL of the request.
        at: JSON pointer to it.

    Raises:
        InvalidInput: The URL is not allowed.
    """
    try:
        return policy.check(url).url
    except RefusedUrl as error:
        raise _invalid(at, error.detail) from error


def _invalid(at: str, detail: str) -> InvalidInput:
    return InvalidInput(
        f"{at}: {detail}", errors=[FieldError(pointer=at, detail=detail, code="webhook")]
    )
