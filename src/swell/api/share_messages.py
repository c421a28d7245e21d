"""Messages about links to what came of tasks."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from swell.api.messages import Moment, Zoned
from swell.task import SHOWN_LARGE_PX

__all__ = [
    "ShareList",
    "ShareRequest",
    "ShareView",
    "SharedPictureQuery",
    "SharedPictureView",
    "SharedView",
    "SharesQuery",
]


class ShareRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What whoever has the link may see, and until when."""

    with_prompt: Annotated[bool, Meta(description="whether the prompt is shown too")] = True
    expires_at: Annotated[
        Zoned | None, Meta(description="when it ends by itself; null for never")
    ] = None


class ShareView(msgspec.Struct, frozen=True, kw_only=True):
    """A link to what came of a task."""

    task_id: str
    url: Annotated[str, Meta(description="a page that needs neither a key nor scripts")]
    token: Annotated[str, Meta(description="what the link holds, and nobody guesses")]
    with_prompt: bool
    created_at: Moment
    expires_at: Annotated[Moment | None, Meta(description="null for never")]


class ShareList(msgspec.Struct, frozen=True, kw_only=True):
    """Links; `cursor` asks for the next page and is null at the end."""

    shares: list[ShareView]
    cursor: str | None


class SharesQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which links to list."""

    task_id: (
        Annotated[str, Meta(max_length=200, description="only that of this task, if it has one")]
        | None
    ) = None
    cursor: Annotated[str, Meta(max_length=200, description="of the page before")] | None = None
    limit: Annotated[int, Meta(ge=1, le=200, description="links in a page")] = 50


class SharedPictureView(msgspec.Struct, frozen=True, kw_only=True):
    """A picture behind a link: WebP without what its file says of itself."""

    url: Annotated[str, Meta(description=f"at most {SHOWN_LARGE_PX} px wide")]
    thumbnail_url: Annotated[str, Meta(description="the same, at most 512 px wide")]
    width: Annotated[int | None, Meta(description="of the picture at `url`, in px")]
    height: int | None


class SharedView(msgspec.Struct, frozen=True, kw_only=True):
    """What whoever has a link may know of a task, and no more."""

    model: str
    prompt: Annotated[str | None, Meta(description="null where it is not shown")]
    seed: int | None
    settings: Annotated[
        dict[str, Any],
        Meta(description="numbers, switches and choices of the input; no text and no file"),
    ]
    made_at: Moment
    expires_at: Moment | None
    pictures: list[SharedPictureView]


class SharedPictureQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How large a picture to show."""

    w: Annotated[
        int, Meta(description=f"at most so wide, in px: 128, 256, 512 or {SHOWN_LARGE_PX}")
    ] = SHOWN_LARGE_PX
