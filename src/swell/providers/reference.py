"""Writes the reference of providers' options from the code: `python -m swell.providers.reference`.

A test compares it with `docs/reference/providers.md`.
"""

import sys
from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo

from swell.providers.factory import KINDS, options_of
from swell.providers.options import MachineOptions, Options
from swell.providers.process import ProcessOptions

_HEAD = """# Options of providers

<!-- Written by `python -m swell.providers.reference`. -->

What a pool says of its provider: in the file `[pools.NAME.options]`, in the environment as JSON.
What does not exist, is missing or has a value that is not allowed is an error.
[Workers anywhere](../workers-anywhere.md) says how to set each up.
"""


def providers_markdown() -> str:
    """Return the page as Markdown."""
    parts = [
        _HEAD,
        _table("Machines of clouds", MachineOptions, "Of `aws`, `gcp` and `azure`.", {}),
    ]
    kinds: dict[str, type[Options]] = {"process": ProcessOptions}
    kinds |= {name: options_of(name) for name in KINDS}
    for name, kind in kinds.items():
        is_machine = issubclass(kind, MachineOptions)
        told = "And those of machines of clouds." if is_machine else ""
        parts.append(
            _table(f"`{name}`", kind, told, MachineOptions.model_fields if is_machine else {})
        )
    return "\n".join(parts)


def _table(title: str, kind: type[Options], told: str, left_out: Mapping[str, FieldInfo]) -> str:
    lines = [f"## {title}", ""]
    lines += [told, ""] if told else []
    rows = [
        f"| `{name}` | {_default(field)} | {_cell(field.description or '')} |"
        for name, field in kind.model_fields.items()
        if name not in left_out
    ]
    if rows:
        lines += ["| option | default | |", "|---|---|---|", *rows, ""]
    elif not told:
        lines += ["None.", ""]
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.default
    if value is None or value in ("", (), {}):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(providers_markdown())
