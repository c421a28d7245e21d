"""Errors in the words of other APIs, with ours beside them.

An answer that tells an error is a problem document everywhere, and a façade changes what its
clients read of it: so whoever looks at one finds the same members under the same names.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from swell.api.call import Call, Reply
from swell.api.problems import problem_reply
from swell.api.views import encode
from swell.errors import SwellError


def refusal(
    call: Call,
    error: SwellError,
    members: Mapping[str, Any],
    *,
    status: int | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> Reply:
    """Return the answer that tells an error, as JSON.

    Args:
        call: What failed.
        error: Why.
        members: What of the document its clients read in another form; None leaves one as it is,
            and a dictionary is added to the one that is there.
        status: Instead of the error's own.
        headers: What is told beside.
    """
    plain = problem_reply(error, path=call.path, request_id=call.request_id)
    body: dict[str, Any] = msgspec.json.decode(plain.body)
    if status is not None:
        body["status"] = status
    for name, value in members.items():
        if value is not None:
            body[name] = {**body[name], **value} if isinstance(value, dict) else value
    told = [*(plain.headers or []), *(headers or [])]
    return Reply(plain.status if status is None else status, encode(body), headers=told)


def param_of(error: SwellError) -> str | None:
    """Return the name of the first field that is to blame; None where none is."""
    if not error.errors:
        return None
    return error.errors[0]["pointer"].removeprefix("/input").strip("/").replace("/", ".") or None
