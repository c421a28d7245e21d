"""What docs/webhooks.md says is so: how a signature is checked, which events, which waits."""

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import standardwebhooks

from pages import block
from swell.core.webhook import EVENTS
from swell.server.webhooks.webhook_signing import new_secret, signature_headers
from swell.settings.backend_settings import WebhooksSettings

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "webhooks.md").read_text()
BODY = b'{"type":"task.succeeded"}'


def _snippet() -> Any:
    code = block("docs/webhooks.md", "def is_genuine")
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the lines of the page
    return names["is_genuine"]


def test_the_lines_that_check_a_signature_do_so() -> None:
    is_genuine, old, new = _snippet(), new_secret(), new_secret()
    headers = signature_headers([new, old], "msg_1", int(time.time()), BODY)
    assert is_genuine(new, headers, BODY)
    assert is_genuine(old, headers, BODY)
    assert not is_genuine(new_secret(), headers, BODY)
    assert not is_genuine(new, headers, BODY + b" ")
    assert not is_genuine(new, {**headers, "webhook-id": "msg_2"}, BODY)
    late = signature_headers([new], "msg_1", int(time.time()) - 301, BODY)
    assert not is_genuine(new, late, BODY)


def test_a_library_of_the_standard_agrees() -> None:
    secret = new_secret()
    now = datetime.now(UTC)
    headers = signature_headers([secret], "msg_1", int(now.timestamp()), BODY)
    library = standardwebhooks.Webhook(secret)
    assert library.verify(BODY.decode(), headers) == {"type": "task.succeeded"}
    own = library.sign("msg_1", now.replace(microsecond=0), BODY.decode())
    assert own == headers["webhook-signature"]


def test_replicates_clients_find_two_parts_in_a_secret() -> None:
    # Their `Webhooks.validate` splits at the underscore.
    assert all(len(new_secret().split("_")) == 2 for _ in range(100))


def test_every_event_is_described() -> None:
    told = re.findall(r"^\|([^|]*)\|", TEXT.partition("## Check the signature")[0], re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(told))) == set(EVENTS)


def test_the_schedule_is_the_one_of_the_code() -> None:
    (row,) = re.findall(r"^\| after \|(.*)\|$", TEXT, re.MULTILINE)
    units = {"s": 1, "min": 60, "h": 3600}
    told = [part.split() for part in row.split("|")]
    assert (
        tuple(float(number) * units[unit] for number, unit in told) == WebhooksSettings().schedule_s
    )
