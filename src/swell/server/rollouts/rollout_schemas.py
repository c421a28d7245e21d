"""Request and response bodies of rollouts. OpenAPI's schemas are made from these types."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from swell.core.rollouts.canary_test import Verdict
from swell.core.rollouts.rollout_state import RollbackRules, StageChange
from swell.server.common_schemas import PLAIN, doc

_Version = Annotated[str, Meta(min_length=1, max_length=100, pattern=PLAIN)]

_Edition = Annotated[
    _Version | None,
    doc(
        "`edition` of GET …/adoption: answers 409 if the stages have changed since; null "
        "skips the check"
    ),
]


class CanaryRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a canary."""

    version: _Version
    share: Annotated[float, doc("share of the tasks that name no version", gt=0.0, lt=1.0)]
    sticky: Annotated[
        Literal["user", "key"],
        doc(
            "keep each `user` of a key on one version (tasks without a user are "
            "assigned one by one), or each `key`"
        ),
    ] = "user"
    rollback: RollbackRules = RollbackRules()
    edition: _Edition = None


class PromoteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to promote a version or the canary."""

    version: Annotated[
        _Version | None,
        doc(
            "null for the canary, with `edition`. A version that was rolled back "
            "automatically needs `edition` too, or the answer is 409"
        ),
    ] = None
    edition: _Edition = None


class RollbackRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to roll back."""

    version: Annotated[
        _Version | None,
        doc(
            "the canary, or the live version without a canary; 409 if it is another one by "
            "now; null for either"
        ),
    ] = None
    reason: Annotated[str, doc("reason for the history", max_length=200)] = ""
    edition: _Edition = None


class RetireRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to retire a version."""

    version: _Version
    edition: _Edition = None


class VersionStageView(msgspec.Struct, frozen=True, kw_only=True):
    """The stage of a version."""

    version: str
    stage: Annotated[str, doc("`trial`, `canary`, `live` or `retired`")]
    share: Annotated[float, doc("share of the tasks that name no version, while served")]
    workers: Annotated[int, doc("workers that have it, seen in the last 30 s")]
    registered_at: datetime | None


class CanaryView(msgspec.Struct, frozen=True, kw_only=True):
    """A canary."""

    version: str
    share: float
    since: datetime
    sticky: str
    rollback: RollbackRules
    is_served: Annotated[
        bool, doc("whether a live worker has it; otherwise the live version gets its share")
    ]
    evidence: Verdict


class AdoptionView(msgspec.Struct, frozen=True, kw_only=True):
    """The rollout of a model."""

    model: str
    is_staged: Annotated[
        bool, doc("if false, the newest version gets all tasks that name no version")
    ]
    edition: Annotated[str, doc("changes with every change of the stages")]
    live: str
    canary: CanaryView | None
    former: Annotated[tuple[str, ...], doc("earlier live versions, latest first")]
    versions: Annotated[list[VersionStageView], doc("newest first")]
    history: Annotated[tuple[StageChange, ...], doc("newest first")]
    notice: Annotated[str, doc("a recommended action; empty for none")]
