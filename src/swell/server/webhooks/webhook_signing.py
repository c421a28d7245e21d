"""Signatures of webhooks. Pure but for random secrets.

Source:
    Standard Webhooks 1.0.0, "Signature scheme" and "Webhook headers":
    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Final

_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 32


def new_secret() -> str:
    """Return a new secret: `whsec_` and standard base64, which has no underscore.

    Replicate's clients split it at the underscore and want exactly two parts.
    """
    return _PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def signature_headers(
    signing: Iterable[str], message_id: str, sent_at_s: int, body: bytes
) -> dict[str, str]:
    """Return the three headers of one attempt.

    Args:
        signing: Secrets; each makes a signature, so a receiver needs only one of them.
        message_id: The same in every attempt.
        sent_at_s: The time of this attempt, in Unix seconds.
        body: The request's body.
    """
    content = f"{message_id}.{sent_at_s}.".encode() + body
    keys = [base64.b64decode(secret.removeprefix(_PREFIX)) for secret in signing]
    digests = [hmac.digest(key, content, hashlib.sha256) for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(sent_at_s),
        "webhook-signature": " ".join("v1," + base64.b64encode(each).decode() for each in digests),
    }
