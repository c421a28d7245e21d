"""The link that signs a browser in, and `swell open`, which prints it again.

The link contains the local key of the data folder, so it must not get into a log. If stdout is a
file, or a pipe of a backend that other machines can reach, the backend prints a hint to use
`swell open` instead.
"""

import os
import stat
import sys
import webbrowser
from typing import Annotated

from swell.cli.options import Browser, is_loopback, places
from swell.cli.output import data as stdout
from swell.cli.output import print_json, talk
from swell.cli.remote import Server, asks_server
from swell.client.access import Access, find_access, read_access
from swell.client.connection import Connection
from swell.server.web.web_app import built_app
from swell.settings.environment import has_desktop
from swell.settings.load import Settings


def sign_in_link(access: Access) -> str:
    """Return the URL that signs a browser in."""
    return f"{access.url}/#/key/{access.key}"


def show_link(settings: Settings, access: Access) -> None:
    """Print the link of a backend on this machine, and open it on a desktop."""
    if built_app() is None:
        talk.print("  No web app: build it with `make web` (needs Node.js 20.19 or newer)")
        return
    if not _may_show(settings):
        is_usual = settings.data_dir == Settings().data_dir
        data = places(None, None if is_usual else settings.data_dir)
        talk.print(f"  `swell open{data}` prints a link that signs in", markup=False)
        return
    stdout.print(f"  Open {sign_in_link(access)} (signs you in)", markup=False)
    stdout.file.flush()
    _open_on_desktop(settings, access)


@asks_server
def open_browser(
    server: Server,
    browser: Annotated[bool | None, Browser] = None,
) -> None:
    """Print a link that signs in to the web app, and open it on a desktop."""
    settings = server.settings
    if browser is not None:
        client = settings.client.model_copy(update={"browser": browser})
        settings = settings.model_copy(update={"client": client})
    access = find_access(settings)

    async def work(remote: Connection) -> None:
        await remote.get("/v1/models", limit=1)

    server.call(work)
    if server.as_json:
        print_json({"url": access.url, "link": sign_in_link(access)})
        return
    stdout.print(sign_in_link(access), markup=False)
    if built_app() is None:
        talk.print("no web app: build it with `make web` (needs Node.js 20.19 or newer)")
    _open_on_desktop(settings, access)


def _open_on_desktop(settings: Settings, access: Access) -> None:
    """Open a browser with a private file: other users can read a process's arguments."""
    own = read_access(settings.data_dir)
    is_own = own is not None and own.key == access.key
    if not (settings.client.browser and is_own and sys.stdout.isatty() and has_desktop()):
        return
    path = settings.data_dir / "open.html"
    path.unlink(missing_ok=True)  # an older file may have other permissions
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f'<meta http-equiv="refresh" content="0; url={sign_in_link(access)}">\n')
    webbrowser.open(path.absolute().as_uri())


def _may_show(settings: Settings) -> bool:
    if sys.stdout.isatty():
        return True
    mode = os.fstat(sys.stdout.fileno()).st_mode
    return stat.S_ISFIFO(mode) and is_loopback(settings.server.host)
