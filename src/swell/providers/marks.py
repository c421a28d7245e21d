"""How instances are marked, so that a controller that starts anew finds its own and no others.

Every provider that outlives this process keeps four words with each instance: as tags, labels or
annotations, whatever it has. Names are made from the first three, so that a launch that is repeated
asks for what is there already.
"""

import contextlib
import hashlib
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from swell.core.provider import Instance, InstanceState, LaunchRequest

DEPLOYMENT: Final = "swell-deployment"
POOL: Final = "swell-pool"
LAUNCH: Final = "swell-launch"
ASKED_AT_MARK: Final = "swell-asked-at"

#: What every provider takes as the value of a label.
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")

#: How much of a pool's name stands in the names of its instances.
_POOL_N: Final = 20


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """Whose an instance is."""

    deployment: str
    pool: str
    #: Of the request; empty for one that is never repeated.
    token: str
    asked_at: datetime

    @classmethod
    def of(cls, deployment: str, request: LaunchRequest, now: datetime) -> "Marks":
        """Return the marks of what a request asks for now."""
        return cls(deployment=deployment, pool=request.pool, token=request.token, asked_at=now)

    @classmethod
    def read(cls, texts: Mapping[str, str], *, asked_at: datetime) -> "Marks":
        """Return the marks that an instance has.

        Args:
            texts: As `texts` gave them.
            asked_at: Taken where they do not tell it, or somebody has written over it.
        """
        told = None
        with contextlib.suppress(ValueError):
            told = moment(texts.get(ASKED_AT_MARK, ""))
        return cls(
            deployment=texts.get(DEPLOYMENT, ""),
            pool=texts.get(POOL, ""),
            token=texts.get(LAUNCH, ""),
            asked_at=told or asked_at,
        )

    @property
    def texts(self) -> dict[str, str]:
        """All of them, as they are."""
        return {
            DEPLOYMENT: self.deployment,
            POOL: self.pool,
            LAUNCH: self.token,
            ASKED_AT_MARK: self.asked_at.isoformat(),
        }

    @property
    def labels(self) -> dict[str, str]:
        """Those that are looked for, in words that every provider takes."""
        found = {DEPLOYMENT: as_label(self.deployment), POOL: as_label(self.pool)}
        return found | ({LAUNCH: as_label(self.token)} if self.token else {})

    def name(self) -> str:
        """Return how the names of these instances begin; the same for a request that is repeated.

        At most 44 characters: lower-case letters, digits and hyphens, a letter first.
        """
        pool = re.sub(r"[^a-z0-9]+", "-", self.pool.lower())[:_POOL_N].strip("-")
        if self.token:
            whole = "\0".join((self.deployment, self.pool, self.token))
            digest = hashlib.sha256(whole.encode()).hexdigest()[:16]
        else:
            digest = secrets.token_hex(8)
        return "-".join(filter(None, ("swell", pool, digest)))

    def starting(self, instance_id: str) -> Instance:
        """Return an instance that was asked for."""
        return Instance(
            id=instance_id,
            pool=self.pool,
            state=InstanceState.STARTING,
            launched_at=self.asked_at,
            token=self.token,
        )


def as_label(text: str) -> str:
    """Return a text as the value of a label: as it is where it can be, else its digest."""
    if _LABEL.fullmatch(text):
        return text
    return "x" + hashlib.sha256(text.encode()).hexdigest()[:32]


def moment(text: str) -> datetime:
    """Return a time as providers write it: ISO 8601, with or without a zone, finer than needed."""
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
