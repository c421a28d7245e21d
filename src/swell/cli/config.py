"""`swell config`: the settings in effect, and their origins."""

from typing import Annotated

import typer

from swell.cli.options import Config, Data, Json, settings_from
from swell.cli.output import print_json, table
from swell.settings.load import Settings


def show_config(
    origin: Annotated[
        bool, typer.Option("--origin", help="Show where each value comes from.")
    ] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of swell.toml.")
    ] = False,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Show the settings in effect here."""
    if schema:
        print_json(Settings.model_json_schema())
        return
    loaded = settings_from(config, data)
    values = loaded.values()
    if as_json and origin:
        print_json({k: {"value": v, "origin": loaded.origins[k]} for k, v in values.items()})
    elif as_json:
        print_json(values)
    elif origin:
        rows = [(key, _show(value), loaded.origins[key]) for key, value in values.items()]
        table(("SETTING", "VALUE", "ORIGIN"), rows, empty="")
    else:
        table(("SETTING", "VALUE"), [(k, _show(v)) for k, v in values.items()], empty="")


def _show(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value in (None, "") else str(value)
