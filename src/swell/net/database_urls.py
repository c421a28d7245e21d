"""Checks of PostgreSQL addresses in settings. Pure.

A `#`, `/`, `?` or `@` in a password ends the host part too early, so an error of the client library
could show the rest of the password as a host or port. So Swell checks an address before it
connects, and its errors quote nothing of it.
"""

from urllib.parse import urlsplit

from swell.core.errors import InvalidRequest

_PORT = 5432


def database_place(url: str, setting: str) -> str:
    """Return the HOST:PORT of `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`, for people.

    Args:
        url: The address. It may have several hosts, separated by commas.
        setting: The setting with the address, for the error.

    Raises:
        InvalidRequest: It cannot be read. The text quotes nothing of it.
    """
    try:
        parts = urlsplit(url)
        hosts = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
        places = [f"{each.hostname or 'localhost'}:{each.port or _PORT}" for each in hosts]
    except ValueError:
        raise unreadable_url(setting) from None
    if "#" in url or "@" in parts.path or "@" in parts.query:
        raise unreadable_url(setting)
    return ",".join(places)


def unreadable_url(setting: str) -> InvalidRequest:
    """Return the error for an address that cannot be read."""
    return InvalidRequest(
        f"{setting} cannot be read: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, and in a "
        "name or password %23 for #, %2F for /, %3F for ?, %40 for @, %3A for : and %25 for %"
    )
