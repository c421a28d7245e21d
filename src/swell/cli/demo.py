"""`swell demo`: starts everything on this machine, and draws one picture."""

import os
import shutil
import sys
from typing import Annotated, Any, Final

import typer
import uvloop

from swell.bootstrap.logging import configure_logging
from swell.cli.follow import follow, save_artifacts, send, show_end, time_line
from swell.cli.keyring import Keyring
from swell.cli.options import Browser, Config, Data, places, settings_from
from swell.cli.output import CommandFailed, seconds, talk
from swell.cli.output import data as stdout
from swell.cli.remote import Remote
from swell.cli.sign_in import show_link
from swell.cli.telling import told_lines
from swell.cli.up import Port, run_up
from swell.client.access import Access
from swell.core.clock import SystemClock
from swell.settings.backend_settings import ServerSettings
from swell.settings.load import Settings
from swell.settings.worker_settings import WorkerSettings

#: Default pipeline of `swell up`.
_PIPELINE: Final = "swell/picture"


def demo(
    prompt: Annotated[str, typer.Option(help="What to draw.")] = "a red fox in the snow",
    model: Annotated[str, typer.Option(help="Model that draws.")] = _PIPELINE,
    once: Annotated[bool, typer.Option("--once", help="Stop after the picture.")] = False,
    port: Port = None,
    browser: Annotated[bool | None, Browser] = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """Start everything, draw one picture, show where the time went, and keep running."""
    is_pipeline = model == _PIPELINE
    settings = settings_from(
        config,
        data,
        server__port=port,
        client__browser=browser,
        server__pipelines=ServerSettings().pipelines if is_pipeline else (),
        worker__models=WorkerSettings().models if is_pipeline else model,
        log__level="warning",
    ).settings
    clock = SystemClock()
    started_s = clock.monotonic_s()
    failed: list[dict[str, Any]] = []

    async def ready(keyring: Keyring) -> bool:
        access = keyring.access
        up_s = clock.monotonic_s() - started_s
        talk.print(f"Swell is up after {seconds(up_s)}: {access.url}")
        async with Remote(access, settings.client.timeout_s) as remote:
            talk.print(f"Drawing {prompt!r} with {model}", markup=False)
            sent_s = clock.monotonic_s()
            task = await send(remote, {"model": model, "input": {"prompt": prompt}})
            task = await follow(remote, task["id"])
            total_s = clock.monotonic_s() - sent_s
            saved = await save_artifacts(remote, task)
        show_end(task)
        if task["state"] != "succeeded":
            failed.append(task)
        for path in saved:
            stdout.print(str(path))
        for name, words in told_lines(task):
            if name == "warning":
                talk.print(f"  {name} {words}", markup=False)
        talk.print(f"  {time_line(task, total_s)}")
        if not once:
            _invite(settings, access, model, places(config, data))
        return once

    configure_logging(settings.log)
    uvloop.run(run_up(settings, clock, ready))
    if failed:
        raise CommandFailed("the picture was not drawn: see the lines above")


def _invite(settings: Settings, access: Access, model: str, found_by: str) -> None:
    # A new user's shell may not have the virtual environment on its PATH.
    command = "swell" if shutil.which("swell") else os.path.relpath(sys.argv[0])
    talk.print("Swell runs until Ctrl-C.")
    show_link(settings, access)
    talk.print("From another terminal:")
    talk.print(
        f'  {command} tasks submit {model} "a cat in the rain" --watch{found_by}\n'
        f"  KEY=$({command} keys create demo{found_by})\n"
        f'  curl {access.url}/v1/tasks -H "Authorization: Bearer $KEY" \\\n'
        '    -H "Content-Type: application/json" -H "Prefer: wait=30" \\\n'
        f'    -d \'{{"model": "{model}", "input": {{"prompt": "a cat in the rain"}}}}\'',
        markup=False,
    )
