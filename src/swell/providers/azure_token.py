"""Tokens for Azure's management API, from a managed identity or an application.

Source:
    https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token,
    https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow.
"""

from typing import Any, Final

import msgspec

from swell.core.clock import Clock
from swell.providers.rest import Answer
from swell.providers.tokens import CloudTokens

_RESOURCE: Final = "https://management.azure.com/"

#: A token is renewed this long before it expires, in seconds.
_EARLY_S: Final = 300.0


class Application(msgspec.Struct, frozen=True, kw_only=True):
    """An application with a client secret."""

    directory: str
    client_id: str
    secret: str
    #: Base URL of the token endpoint.
    login_url: str

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Leave out the secret."""
        return [("directory", self.directory), ("client_id", self.client_id)]

    def __repr__(self) -> str:
        """Leave out the secret."""
        return f"Application(directory={self.directory!r}, client_id={self.client_id!r})"


class AzureTokens(CloudTokens):
    """Azure access tokens. See `CloudTokens`.

    Args:
        application: Application to authenticate as; None for this machine's managed identity.
        clock: The clock.
        client_id: Client id of the managed identity, if the machine has several.
        metadata_url: Base URL of the metadata service.
    """

    def __init__(
        self,
        application: Application | None,
        clock: Clock,
        *,
        client_id: str = "",
        metadata_url: str = "",
    ) -> None:
        super().__init__("Azure", clock, early_s=_EARLY_S, may_use_proxy=application is not None)
        self._application = application
        self._client_id = client_id
        self._metadata_url = metadata_url

    async def _asked(self) -> Answer:
        application = self._application
        return await (self._of_machine() if application is None else self._of(application))

    def _not_taken(self, said: Answer) -> str:
        told: Any = said.body.get("error_description") if isinstance(said.body, dict) else ""
        return (
            f"Azure does not take who we say we are: {told or said.body}; correct the options "
            "directory, client_id and client_secret_file, or give the machine an identity"
        )

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
