"""Request and response bodies of rollouts. OpenAPI's schemas are made from these types."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from swell.core.rollouts.canary_test import Verdict
from swell.core.rollouts.rollout_state import RollbackRules, StageChange
from swell.server.common_schemas import PLAIN

_Version = Annotated[str, Meta(min_length=1, max_length=100, pattern=PLAIN)]

_Edition = Annotated[
    _Version | None,
    Meta(
        description=(
            "`edition` of GET …/adoption: answers 409 if the stages have changed since; null "
            "skips the check"
        )
    ),
]


class CanaryRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a canary."""

    version: _Version
    share: Annotated[
        float, Meta(gt=0.0, lt=1.0, description="share of the tasks that name no version")
    ]
    sticky: Annotated[
        Literal["user", "key"],
        Meta(
            description="keep each `user` of a key on one version (tasks without a user are "
            "assigned one by one), or each `key`"
        ),
    ] = "user"
    rollback: RollbackRules = RollbackRules()
    edition: _Edition = None


class PromoteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to promote a version or the canary."""

    version: Annotated[
        _Version | None,
        Meta(
            description=(
                "null for the canary, with `edition`. A version that was rolled back "
                "automatically needs `edition` too, or the answer is 409"
            )
        ),
    ] = None
    edition: _Edition = None


class RollbackRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to roll back."""

    version: Annotated[
        _Version | None,
        Meta(
            description=(
                "the canary, or the live version without a canary; 409 if it is another one by "
                "now; null for either"
            )
        ),
    ] = None
    reason: Annotated[str, Meta(max_length=200, description="reason for the history")] = ""
    edition: _Edition = None


class RetireRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to retire a version."""

    version: _Version
    edition: _Edition = None


class VersionStageView(msgspec.Struct, frozen=True, kw_only=True):
    """The stage of a version."""

    version: str
    stage: Annotated[str, Meta(description="`trial`, `canary`, `live` or `retired`")]
    share: Annotated[
        float, Meta(description="share of the tasks that name no version, while served")
    ]
    workers: Annotated[int, Meta(description="workers that have it, seen in the last 30 s")]
    registered_at: datetime | None


class CanaryView(msgspec.Struct, frozen=True, kw_only=True):
    """A canary."""

    version: str
    share: float
    since: datetime
    sticky: str
    rollback: RollbackRules
    is_served: Annotated[
        bool,
        Meta(description="whether a live worker has it; otherwise the live version gets its share"),
    ]
    evidence: Verdict


class AdoptionView(msgspec.Struct, frozen=True, kw_only=True):
    """The rollout of a model."""

    model: str
    is_staged: Annotated[
        bool,
        Meta(description="if false, the newest version gets all tasks that name no version"),
    ]
    edition: Annotated[str, Meta(description="changes with every change of the stages")]
    live: str
    canary: CanaryView | None
    former: Annotated[tuple[str, ...], Meta(description="earlier live versions, latest first")]
    versions: Annotated[list[VersionStageView], Meta(description="newest first")]
    history: Annotated[tuple[StageChange, ...], Meta(description="newest first")]
    notice: Annotated[str, Meta(description="a recommended action; empty for none")]
