"""Standing webhooks: endpoints that get events of many tasks.

They are stored in the registry. A change at another backend is known here after at most
`REFRESH_S` seconds.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import replace

from swell.core.clock import Clock
from swell.core.errors import Conflict
from swell.core.outbox import Watch
from swell.db.registry import Registry
from swell.db.webhook_deliveries import Outbox
from swell.server.serializers import project
from swell.server.webhooks.webhook_schemas import EndpointFields
from swell.server.webhooks.webhook_secrets import SigningPair

#: Interval of reading changes of other backends, in seconds.
REFRESH_S: Final = 2.0

_PREFIX: Final = "webhooks.endpoint/"


class EndpointState(StrEnum):
    """Whether an endpoint gets events."""

    ACTIVE = "active"
    #: Events are stored for it, and sent when it resumes.
    PAUSED = "paused"
    #: It answered 410, and no events are stored for it.
    DISABLED = "disabled"


class Endpoint(EndpointFields, frozen=True, kw_only=True):
    """One standing endpoint as it is stored."""

    state: EndpointState = EndpointState.ACTIVE
    #: As of `Webhook`.
    base: str
    signing: SigningPair

    @property
    def place(self) -> str:
        """The name under which the limits of its receiver are counted."""
        return f"{self.key_id} {self.id}"

    @property
    def watch(self) -> Watch:
        """Selects the events for which the store writes deliveries."""
        key_id = None if self.all_keys else self.key_id
        return project(Watch, self, endpoint=self.id, key_id=key_id, owner=self.key_id)


class Endpoints:
    """The standing endpoints that this backend knows."""

    def __init__(self, registry: Registry, outbox: Outbox, clock: Clock) -> None:
        self._registry = registry
        self._outbox = outbox
        self._clock = clock
        self._known: dict[str, Endpoint] = {}
        #: How often `_known` has changed.
        self._changes = 0

    async def refresh(self) -> None:
        """Read all endpoints, and have the store write deliveries for the active ones."""
        changes = -1
        while changes != self._changes:
            # An endpoint may have changed here during the read.
            changes = self._changes
            kept = await self._registry.notes(_PREFIX)
        self._take({each.id: each for each in map(_decode, kept.values())})

    def all(self) -> list[Endpoint]:
        """Return the known endpoints, oldest first."""
        return sorted(self._known.values(), key=lambda each: (each.created_at, each.id))

    async def read(self, endpoint_id: str) -> Endpoint | None:
        """Read an endpoint."""
        kept = await self._registry.note(_PREFIX + endpoint_id)
        return None if kept is None else _decode(kept)

    def paused(self) -> list[str]:
        """Return the places of paused endpoints."""
        return [each.place for each in self._known.values() if each.state is EndpointState.PAUSED]

    async def add(self, endpoint: Endpoint) -> None:
        """Store a new endpoint."""
        await self._registry.put_note(_PREFIX + endpoint.id, _encode(endpoint))
        self._take({**self._known, endpoint.id: endpoint})

    async def remove(self, endpoint_id: str) -> None:
        """Delete an endpoint, and fail its waiting deliveries."""
        await self._registry.drop_notes([_PREFIX + endpoint_id])
        self._take({name: each for name, each in self._known.items() if name != endpoint_id})
        await self._outbox.give_up(endpoint_id, "the endpoint was deleted")

    async def set_state(
        self, endpoint_id: str, state: EndpointState, reason: str = "", *, but: str = ""
    ) -> Endpoint:
        """Change an endpoint's state; return it. Disabling fails its waiting deliveries.

        Args:
            endpoint_id: The endpoint.
            state: Its new state.
            reason: The reason, for people.
            but: A delivery that does not fail, since its outcome is about to be stored.

        Raises:
            Conflict: It was deleted.
        """
        now = self._clock.now()
        changed = await self.change(
            endpoint_id, lambda before: replace(before, state=state, reason=reason, changed_at=now)
        )
        if state is EndpointState.DISABLED:
            why = f"the endpoint was disabled: {reason}"
            await self._outbox.give_up(endpoint_id, why, but=but)
        return changed

    async def change(self, endpoint_id: str, change: Callable[[Endpoint], Endpoint]) -> Endpoint:
        """Replace an endpoint with `change(endpoint)`, atomically, and return it.

        Raises:
            Conflict: It was deleted.
        """

        def change_note(kept: bytes | None) -> bytes:
            if kept is None:
                raise Conflict(f"the endpoint {endpoint_id} has been deleted")
            return _encode(change(_decode(kept)))

        after = _decode(await self._registry.change_note(_PREFIX + endpoint_id, change_note))
        self._take({**self._known, endpoint_id: after})
        return after

    def _take(self, known: dict[str, Endpoint]) -> None:
        self._known = known
        self._changes += 1
        enabled = [each for each in self.all() if each.state is not EndpointState.DISABLED]
        self._outbox.watch([each.watch for each in enabled])


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Endpoint).decode
