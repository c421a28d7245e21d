"""Labels on instances, so that a restarted controller finds its instances and no others.

Every provider that outlives this process stores four texts with each instance, as tags, labels or
annotations. Instance names are derived from the first three, so that a repeated launch asks for the
same names.
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

#: Label values that every provider accepts.
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")

#: Length of a pool's name in instance names.
_POOL_N: Final = 20


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """Owner of an instance, and its launch request."""

    deployment: str
    pool: str
    #: Token of the request; empty for one that is never repeated.
    token: str
    asked_at: datetime

    @classmethod
    def of(cls, deployment: str, request: LaunchRequest, now: datetime) -> "Marks":
        """Return the marks for a launch request."""
        return cls(deployment=deployment, pool=request.pool, token=request.token, asked_at=now)

    @classmethod
    def read(cls, texts: Mapping[str, str], *, asked_at: datetime) -> "Marks":
        """Return the marks of an instance.

        Args:
            texts: Texts of the instance, as written by `texts`.
            asked_at: Launch time if the texts lack it or it is invalid.
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
        """Return all marks, unchanged."""
        return {
            DEPLOYMENT: self.deployment,
            POOL: self.pool,
            LAUNCH: self.token,
            ASKED_AT_MARK: self.asked_at.isoformat(),
        }

    @property
    def labels(self) -> dict[str, str]:
        """Return the marks that lists are filtered by, as values that every provider accepts."""
        found = {DEPLOYMENT: as_label(self.deployment), POOL: as_label(self.pool)}
        return found | ({LAUNCH: as_label(self.token)} if self.token else {})

    def name(self) -> str:
        """Return the prefix of the instance names; the same for a repeated request.

        At most 44 characters: lower-case letters, digits and hyphens, starting with a letter.
        """
        pool = re.sub(r"[^a-z0-9]+", "-", self.pool.lower())[:_POOL_N].strip("-")
        if self.token:
            whole = "\0".join((self.deployment, self.pool, self.token))
            digest = hashlib.sha256(whole.encode()).hexdigest()[:16]
        else:
            digest = secrets.token_hex(8)
        return "-".join(filter(None, ("swell", pool, digest)))

    def starting(self, instance_id: str) -> Instance:
        """Return an instance in the state STARTING."""
        return Instance(
            id=instance_id,
            pool=self.pool,
            state=InstanceState.STARTING,
            launched_at=self.asked_at,
            token=self.token,
        )


def as_label(text: str) -> str:
    """Return a text as a label value: unchanged if valid, otherwise its digest."""
    if _LABEL.fullmatch(text):
        return text
    return "x" + hashlib.sha256(text.encode()).hexdigest()[:32]


def moment(text: str) -> datetime:
    """Parse an ISO 8601 time, with or without a time zone."""
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
