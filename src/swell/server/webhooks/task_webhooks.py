"""Webhooks of one backend: checks of requests, events of running tasks, and their delivery.

Every backend writes deliveries to the store. The leader of the duty `webhooks` sends them.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
import structlog

from swell.core.errors import SwellError
from swell.core.events import ATTEMPT_STRIDE, Event, EventKind
from swell.core.outbox import Delivery, says_passing
from swell.core.webhook import NATIVE, PASSING, Webhook
from swell.net.safe_http import Outbound
from swell.net.url_policy import RefusedUrl, UrlPolicy
from swell.server.auth import why_not
from swell.server.dependencies import Backend
from swell.server.metrics import Metrics
from swell.server.problem_details import field_error
from swell.server.serializers import UrlMaker, project
from swell.server.tasks.partial_artifacts import files_told
from swell.server.tasks.task_schemas import WebhookRequest
from swell.server.webhooks.dispatcher import Dispatcher, Undeliverable
from swell.server.webhooks.webhook_bodies import SO_FAR, BodyFormat, written
from swell.server.webhooks.webhook_endpoints import Endpoint, Endpoints, EndpointState
from swell.server.webhooks.webhook_secrets import DEFAULT_SECRET, HookSecrets, SigningPair
from swell.server.webhooks.webhook_sender import HookRequest, send

_log = structlog.get_logger("swell.webhooks")

#: Least time between events of one kind while a task runs, in seconds.
_EVENT_INTERVAL_S: Final = 0.5
#: Most running tasks for which the backend remembers whether anyone subscribed.
_MAX_TASKS: Final = 10_000


class Hooks:
    """Webhooks of one backend.

    Args:
        backend: Stores, clock and settings.
        formats: Body formats by name.
        metrics: Counts outcomes.
    """

    def __init__(
        self, backend: Backend, formats: Mapping[str, BodyFormat], metrics: Metrics
    ) -> None:
        self.settings = backend.settings.webhooks
        self.outbox = outbox = backend.outbox
        self.secrets = HookSecrets(backend.registry, backend.clock)
        self.endpoints = Endpoints(backend.registry, outbox, backend.clock)
        self._backend = backend
        self._clock = backend.clock
        self._formats = formats
        self._metrics = metrics
        #: Running task → whether anyone subscribed to events before its end.
        self._subscribed: dict[str, bool] = {}
        #: (task, kind) → the newest event that was not sent; None if all were sent.
        self._pending: dict[tuple[str, str], Event | None] = {}
        self._senders: set[asyncio.Task[None]] = set()
        self.policy = UrlPolicy.of(
            self.settings.allow_private_urls, self.settings.url_ports, "webhooks"
        )
        self._outbound = Outbound(self.policy, self.settings.timeout_s, connections=0)
        self.dispatcher = Dispatcher(
            outbox, backend.clock, partial(send, self._outbound, backend.clock), self, self.settings
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
        await self._outbound.close()

    async def waiting(self) -> tuple[int, float]:
        """Return the number of waiting deliveries, and the age of the oldest event in seconds."""
        backlog = await self.outbox.backlog()
        now = self._clock.now()
        return backlog.waiting, (now - (backlog.oldest_at or now)).total_seconds()

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
        if form not in self._formats:
            names = ", ".join(sorted(self._formats))
            detail = f"there is no format {form[:40]!r}: use {names}"
            raise field_error(f"{at}/format", detail, "webhook")
        known = self._formats[form].events
        for index, event in enumerate(events):
            if event not in known:
                detail = (
                    f"the format {form!r} has no words for {event!r}, only for {', '.join(known)}: "
                    f"leave {event!r} out, or use the format {NATIVE!r}"
                )
                raise field_error(f"{at}/events/{index}", detail, "webhook")

    async def check_secret(self, key_id: str, name: str, at: str) -> None:
        """Check that a key has a signing secret of this name.

        Raises:
            InvalidInput: It has none.
        """
        if name != DEFAULT_SECRET and await self.secrets.of(key_id, name) is None:
            how = f"POST /v1/webhooks/secrets/{name}/rotate makes it"
            raise field_error(at, f"this key has no signing secret {name!r}: {how}", "webhook")

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
                attempt = event.id // ATTEMPT_STRIDE
                await self.outbox.post(event.task_id, attempt, event.kind.value, self._data(event))
        except SwellError as error:
            _log.info("webhooks: event was not posted", detail=error.detail)
        except Exception:
            _log.exception("webhooks: event was not posted")

    def _data(self, event: Event) -> dict[str, Any]:
        """Return the data of an event; of a file, with all files of the attempt so far."""
        if event.kind is not EventKind.ARTIFACT:
            return event.data
        first = event.id // ATTEMPT_STRIDE * ATTEMPT_STRIDE
        before = [
            e for e in self._backend.bus.history(event.task_id, after=first) if e.id <= event.id
        ]
        return {**event.data, SO_FAR: msgspec.to_builtins(files_told(before))}

    async def _is_subscribed(self, task_id: str) -> bool:
        if task_id not in self._subscribed:
            if len(self._subscribed) >= _MAX_TASKS:
                self._subscribed.clear()
            (task,) = await self._backend.store.get([task_id])
            watches = [each.watch for each in self.endpoints.all()]
            self._subscribed[task_id] = task is not None and says_passing(task, watches)
        return self._subscribed[task_id]

    # ---- for the dispatcher

    async def make_request(self, delivery: Delivery) -> HookRequest:
        """Return the request of a delivery.

        Raises:
            Undeliverable: It can never be sent.
            Unavailable: The database does not answer now.
        """
        (task,) = await self._backend.store.get([delivery.task_id])
        if task is None:
            raise Undeliverable("the task is not kept any longer")
        receiver: Endpoint | Webhook
        if delivery.endpoint:
            receiver = await self._endpoint(delivery.endpoint)
            pair = receiver.signing
        elif task.webhook is not None:
            receiver = task.webhook
            pair = await self._key_secret(task.key_id, receiver.secret)
        else:
            raise Undeliverable("the task names no webhook")
        form = self._formats.get(receiver.format)
        if form is None:
            raise Undeliverable(f"this backend knows no format {receiver.format!r}")
        body = written(form, delivery, task, self._urls(receiver.base))
        now = self._clock.now()
        headers: Mapping[str, str] = {}
        if form.headers is not None:
            headers = await form.headers(self._backend.registry, delivery, task, body, now)
        signing = pair.signing(now)
        return project(
            HookRequest, task, url=receiver.url, body=body, signing=signing, headers=headers
        )

    def paused(self) -> list[str]:
        """Return the places that get nothing now."""
        return self.endpoints.paused()

    async def note_gone(self, delivery: Delivery) -> None:
        """Disable a standing endpoint that answered 410."""
        if delivery.endpoint:
            await self._disable(delivery.endpoint, "it answered 410 Gone", but=delivery.id)

    def note_attempt(self, delivery: Delivery) -> None:
        """Count the outcome of an attempt."""
        outcome = "retried" if delivery.due_at is not None else delivery.state.value
        self._metrics.count("swell_webhook_deliveries_total", outcome)

    async def _endpoint(self, endpoint_id: str) -> Endpoint:
        known = await self.endpoints.read(endpoint_id)
        if known is None:
            raise Undeliverable("the endpoint was deleted")
        reason = known.reason
        if known.state is not EndpointState.DISABLED:
            reason = await self._why_not(known.key_id) or ""
            if not reason:
                return known
            await self._disable(endpoint_id, reason)
        raise Undeliverable(f"the endpoint was disabled: {reason}")

    async def _disable(self, endpoint_id: str, reason: str, *, but: str = "") -> None:
        await self.endpoints.set_state(endpoint_id, EndpointState.DISABLED, reason, but=but)
        _log.warning("webhooks: endpoint disabled", endpoint=endpoint_id, reason=reason)

    async def _key_secret(self, key_id: str, name: str) -> SigningPair:
        reason = await self._why_not(key_id)
        if reason is not None:
            raise Undeliverable(f"the key that created it no longer has access: {reason}")
        pair = await self.secrets.of(key_id, name)
        if pair is None:
            raise Undeliverable(f"the key has no signing secret {name!r}")
        return pair

    async def _why_not(self, key_id: str) -> str | None:
        """Return why a key no longer works; None if it works."""
        key = await self._backend.registry.key(key_id)
        return None if key is None else why_not(key, key.digest, self._clock.now())

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
        raise field_error(at, error.detail, "webhook") from error
