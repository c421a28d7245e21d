"""Messages about share links."""

from typing import Annotated, Any

import msgspec

from swell.api.schemas import Cursor, Moment, doc
from swell.api.tasks_schemas import Zoned
from swell.task import SHOWN_LARGE_PX


class ShareRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a share link."""

    with_prompt: Annotated[bool, doc("whether to show the prompt")] = True
    expires_at: Annotated[Zoned | None, doc("when the link expires; null for never")] = None


class ShareView(msgspec.Struct, frozen=True, kw_only=True):
    """A share link."""

    task_id: str
    url: Annotated[str, doc("a page that needs no key and no scripts")]
    token: Annotated[str, doc("the secret part of the link")]
    with_prompt: bool
    created_at: Moment
    expires_at: Annotated[Moment | None, doc("null for never")]


class ShareList(msgspec.Struct, frozen=True, kw_only=True):
    """Share links; `cursor` gets the next page and is null at the end."""

    shares: list[ShareView]
    cursor: str | None


class SharesQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which links to list."""

    task_id: Annotated[str, doc("only the link of this task", max_length=200)] | None = None
    cursor: Cursor = None
    limit: Annotated[int, doc("links on a page", ge=1, le=200)] = 50


class SharedPictureView(msgspec.Struct, frozen=True, kw_only=True):
    """A shared picture: WebP without metadata."""

    url: Annotated[str, doc(f"at most {SHOWN_LARGE_PX} px wide")]
    thumbnail_url: Annotated[str, doc("the same, at most 512 px wide")]
    width: Annotated[int | None, doc("of the picture at `url`, in px")]
    height: int | None


class SharedView(msgspec.Struct, frozen=True, kw_only=True):
    """The shared part of a task."""

    model: str
    prompt: Annotated[str | None, doc("null if not shown")]
    seed: int | None
    settings: Annotated[
        dict[str, Any], doc("numbers, switches and choices of the input; no texts or files")
    ]
    made_at: Moment
    expires_at: Moment | None
    pictures: list[SharedPictureView]
    guest_tasks: Annotated[int, doc("tasks that a visitor may run without a key of their own")] = 0


class SharedPictureQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The size of a shared picture."""

    w: Annotated[int, doc(f"at most so wide, in px: 128, 256, 512 or {SHOWN_LARGE_PX}")] = (
        SHOWN_LARGE_PX
    )
