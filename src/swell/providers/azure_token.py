"""Tokens for Azure's management API: of the machine's managed identity, or of an application.

Source:
    https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token,
    https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow.
"""

import asyncio
from typing import Any, Final

import msgspec

from swell.clock import Clock
from swell.errors import InvalidInput, Unavailable
from swell.providers.rest import Answer, Rest

__all__ = ["Application", "AzureTokens"]

_RESOURCE: Final = "https://management.azure.com/"

#: How long before its end a token is replaced, in seconds.
_EARLY_S: Final = 300.0


class Application(msgspec.Struct, frozen=True, kw_only=True):
    """An application that has a secret."""

    directory: str
    client_id: str
    secret: str
    #: Where it asks for tokens.
    login_url: str

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Tell what may stand in a log: not the secret."""
        return [("directory", self.directory), ("client_id", self.client_id)]

    def __repr__(self) -> str:
        """Return the same in one line."""
        return f"Application(directory={self.directory!r}, client_id={self.client_id!r})"


class AzureTokens:
    """Gives a token that is good for some minutes more.

    Args:
        application: Who asks; None for the managed identity of this machine.
        client_id: Of that identity, where the machine has several.
        metadata_url: Where it is asked for.
        clock: The time.
    """

    def __init__(
        self,
        application: Application | None,
        clock: Clock,
        *,
        client_id: str = "",
        metadata_url: str = "",
    ) -> None:
        self._application = application
        self._client_id = client_id
        self._metadata_url = metadata_url
        self._clock = clock
        self._rest = Rest("Azure's tokens", may_use_proxy=application is not None)
        self._asking = asyncio.Lock()
        self._token = ""
        self._until_s = float("-inf")

    async def headers(self) -> dict[str, str]:
        """Return what each call says of who we are.

        Raises:
            Unavailable: No token is to be had now.
            InvalidInput: Azure does not take the secret, or the machine has no such identity.
        """
        async with self._asking:
            if self._clock.monotonic_s() >= self._until_s:
                await self._ask()
        return {"Authorization": f"Bearer {self._token}"}

    def forget(self) -> None:
        """Ask for another next time, since this one was refused."""
        self._until_s = float("-inf")

    async def close(self) -> None:
        """Let go of connections."""
        await self._rest.close()

    async def _ask(self) -> None:
        application = self._application
        said = await (self._of_machine() if application is None else self._of(application))
        if said.status in (400, 401, 403):
            told: Any = said.body.get("error_description") if isinstance(said.body, dict) else ""
            raise InvalidInput(
                f"Azure does not take who we say we are: {told or said.body}; correct the options "
                "directory, client_id and client_secret_file, or give the machine an identity"
            )
        if not said.is_ok or not isinstance(said.body, dict):
            raise Unavailable(f"Azure gives no token: {said.status} {said.body}"[:500])
        self._token = said.body["access_token"]
        # A number in one of both answers, and its text in the other.
        left_s = float(said.body["expires_in"])
        self._until_s = self._clock.monotonic_s() + left_s - _EARLY_S

    async def _of_machine(self) -> Answer:
        query = {"api-version": "2018-02-01", "resource": _RESOURCE}
        query |= {"client_id": self._client_id} if self._client_id else {}
        url = f"{self._metadata_url}/metadata/identity/oauth2/token"
        return await self._rest.call("GET", url, query=query, headers={"Metadata": "true"})

    async def _of(self, application: Application) -> Answer:
        form = {
            "grant_type": "client_credentials",
            "client_id": application.client_id,
            "client_secret": application.secret,
            "scope": f"{_RESOURCE}.default",
        }
        url = f"{application.login_url}/{application.directory}/oauth2/v2.0/token"
        return await self._rest.call("POST", url, form=form)
