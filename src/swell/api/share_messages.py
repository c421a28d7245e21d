"""Messages about share links."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from swell.api.schemas import Cursor, Moment
from swell.api.tasks_schemas import Zoned
from swell.task import SHOWN_LARGE_PX


class ShareRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a share link."""

    with_prompt: Annotated[bool, Meta(description="whether to show the prompt")] = True
    expires_at: Annotated[
        Zoned | None, Meta(description="when the link expires; null for never")
    ] = None


class ShareView(msgspec.Struct, frozen=True, kw_only=True):
    """A share link."""

    task_id: str
    url: Annotated[str, Meta(description="a page that needs no key and no scripts")]
    token: Annotated[str, Meta(description="the secret part of the link")]
    with_prompt: bool
    created_at: Moment
    expires_at: Annotated[Moment | None, Meta(description="null for never")]


class ShareList(msgspec.Struct, frozen=True, kw_only=True):
    """Share links; `cursor` gets the next page and is null at the end."""

    shares: list[ShareView]
    cursor: str | None


class SharesQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which links to list."""

    task_id: (
        Annotated[str, Meta(max_length=200, description="only the link of this task")] | None
    ) = None
    cursor: Cursor = None
    limit: Annotated[int, Meta(ge=1, le=200, description="links on a page")] = 50


class SharedPictureView(msgspec.Struct, frozen=True, kw_only=True):
    """A shared picture: WebP without metadata."""

    url: Annotated[str, Meta(description=f"at most {SHOWN_LARGE_PX} px wide")]
    thumbnail_url: Annotated[str, Meta(description="the same, at most 512 px wide")]
    width: Annotated[int | None, Meta(description="of the picture at `url`, in px")]
    height: int | None


class SharedView(msgspec.Struct, frozen=True, kw_only=True):
    """The shared part of a task."""

    model: str
    prompt: Annotated[str | None, Meta(description="null if not shown")]
    seed: int | None
    settings: Annotated[
        dict[str, Any],
        Meta(description="numbers, switches and choices of the input; no texts or files"),
    ]
    made_at: Moment
    expires_at: Moment | None
    pictures: list[SharedPictureView]
    guest_tasks: Annotated[
        int, Meta(description="tasks that a visitor may run without a key of their own")
    ] = 0


class SharedPictureQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The size of a shared picture."""

    w: Annotated[
        int, Meta(description=f"at most so wide, in px: 128, 256, 512 or {SHOWN_LARGE_PX}")
    ] = SHOWN_LARGE_PX
