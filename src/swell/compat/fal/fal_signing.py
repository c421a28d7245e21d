"""Webhook signatures in fal's form: Ed25519 over request, user, time and the body's SHA-256.

Receivers read the public keys as a JSON Web Key Set, and accept a request if its time is within
five minutes of theirs. The library is an extra, `swell[fal]`, so this module is imported only when
it is needed.

Source:
    fal's documentation, "Webhooks", "Verifying your webhook", November 2026; RFC 8032, Ed25519;
    RFC 8037, its public keys as JSON Web Keys.
"""

import base64
import hashlib
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: Separates this use of a secret from others.
_PURPOSE: Final = b"swell webhooks in fal's form"


class FalKey:
    """A private key. Its `repr` does not show it.

    Args:
        secret: 32 or more random bytes; the key is derived from them.
    """

    def __init__(self, secret: bytes) -> None:
        seed = hashlib.sha256(_PURPOSE + secret).digest()
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        #: The public key, 32 bytes in base64url without padding.
        self.x: Final = _base64url(self._private.public_key().public_bytes_raw())
        #: The key id.
        self.id: Final = hashlib.sha256(self.x.encode()).hexdigest()[:16]

    def headers(self, request_id: str, user_id: str, at_s: int, body: bytes) -> dict[str, str]:
        """Return the headers of one request.

        Args:
            request_id: The id of the request in fal's API.
            user_id: The user who sent it.
            at_s: Unix seconds of the attempt.
            body: The body of the webhook.
        """
        digest = hashlib.sha256(body).hexdigest()
        message = "\n".join((request_id, user_id, str(at_s), digest)).encode()
        return {
            "x-fal-webhook-request-id": request_id,
            "x-fal-webhook-user-id": user_id,
            "x-fal-webhook-timestamp": str(at_s),
            "x-fal-webhook-signature": self._private.sign(message).hex(),
        }


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
