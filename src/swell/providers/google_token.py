"""Tokens for Google's APIs, from this machine's service account or from a key file.

Source:
    https://developers.google.com/identity/protocols/oauth2/service-account#authorizingrequests,
    https://docs.cloud.google.com/compute/docs/access/authenticate-workloads#applications.
"""

import base64
import json
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from swell.core.clock import Clock
from swell.core.errors import InvalidRequest
from swell.providers.rest import Answer
from swell.providers.tokens import CloudTokens

_SCOPE: Final = "https://www.googleapis.com/auth/compute"
_MACHINE: Final = "/computeMetadata/v1/instance/service-accounts/default/token"

#: Requested lifetime of a token, and time before its expiry at which it is renewed, in seconds.
_LASTS_S: Final = 3600
_EARLY_S: Final = 120.0


class GoogleTokens(CloudTokens):
    """Google access tokens. See `CloudTokens`.

    Args:
        key: JSON key file of a service account; None for this machine's service account.
        metadata_url: Base URL of the metadata service.
        clock: The clock.

    Raises:
        InvalidRequest: The file is not a key.
    """

    def __init__(self, key: Path | None, metadata_url: str, clock: Clock) -> None:
        super().__init__("Google", clock, early_s=_EARLY_S, may_use_proxy=key is not None)
        self._account = None if key is None else _read(key)
        self._url = metadata_url + _MACHINE if self._account is None else self._account["token_uri"]

    async def _asked(self) -> Answer:
        if self._account is None:
            return await self._rest.call("GET", self._url, headers={"Metadata-Flavor": "Google"})
        grant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
        form = {"grant_type": grant, "assertion": self._assertion(self._account)}
        return await self._rest.call("POST", self._url, form=form)

    def _not_taken(self, said: Answer) -> str:
        return (
            f"Google does not take the key of the service account: {said.body}; make a new "
            "one, and name its file in the option credentials"
        )

    def _assertion(self, account: dict[str, Any]) -> str:
        now = int(self._clock.now().timestamp())
        head = {"alg": "RS256", "typ": "JWT", "kid": account.get("private_key_id", "")}
        claims = {"iss": account["client_email"], "scope": _SCOPE, "aud": account["token_uri"]}
        claims |= {"iat": now, "exp": now + _LASTS_S}
        signed = f"{_packed(head)}.{_packed(claims)}"
        key: RSAPrivateKey = account["key"]
        signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64(signature)}"


def _read(path: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(path.read_text())
        key = serialization.load_pem_private_key(told["private_key"].encode(), password=None)
        if not isinstance(key, RSAPrivateKey):
            raise TypeError("its private key is not of RSA")
        return told | {"key": key, "client_email": told["client_email"]}
    except OSError as error:
        raise InvalidRequest(
            f"the key {path} cannot be read ({error.strerror}): name another file in the option "
            "credentials, or leave it out on a machine of Google"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
        # The error omits details: it may be logged, and must not contain the key.
        raise InvalidRequest(
            f"{path} is no key of a service account ({type(error).__name__}): make one with gcloud "
            "iam service-accounts keys create"
        ) from None


def _packed(table: dict[str, Any]) -> str:
    return _base64(json.dumps(table, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
