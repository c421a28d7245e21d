"""Addresses of PostgreSQL databases, as settings write them. Pure.

A password with `#`, `/`, `?` or `@` in it ends the address too early, and what is left of it would
be taken for a port or for a host, and be told in an error. So an address is judged before anything
connects, in words that say nothing of it.
"""

from urllib.parse import urlsplit

from swell.errors import InvalidRequest

_PORT = 5432


def database_place(url: str, setting: str) -> str:
    """Return the HOST:PORT of `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`, for people.

    Args:
        url: The address. Several hosts may stand with commas between them.
        setting: Where it is written, for the error.

    Raises:
        InvalidRequest: It cannot be read. Nothing of it is in the text.
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
    """Return what to say of an address that cannot be read."""
    return InvalidRequest(
        f"{setting} cannot be read: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, and in a "
        "name or password %23 for #, %2F for /, %3F for ?, %40 for @, %3A for : and %25 for %"
    )
