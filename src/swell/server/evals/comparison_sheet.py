"""A comparison as one HTML file to vote on.

The file contains pictures, style and script, and nothing that reveals the models. It sends votes to
the server; without the server they stay in the browser and can be saved for `swell models votes
--file`.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit


def sheet(created: Mapping[str, Any], pictures: Mapping[str, bytes], ballots_url: str) -> str:
    """Return the HTML document.

    Args:
        created: Response of `POST /v1/comparisons`.
        pictures: URL → WebP file, for each picture in it.
        ballots_url: Where votes are sent.
    """
    comparison = created["comparison"]
    page = (files("swell.server.evals") / "comparison_sheet.html").read_text(encoding="utf-8")
    sent = {"id": comparison["id"], "url": ballots_url, "permit": created["permit"]}
    values = {
        "name": html.escape(comparison["name"]),
        "policy": html.escape(_policy(page, ballots_url)),
        "rows": "".join(_row(row, pictures) for row in comparison["rows"] if row["can_be_voted"]),
        # No `<` that could end the script element.
        "sheet": json.dumps(sent).replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], page)


def _policy(page: str, ballots_url: str) -> str:
    """Return a content security policy: run the page's own script, and call one server."""
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    server = urlsplit(ballots_url)
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
        f"script-src 'sha256-{digest}'; connect-src {server.scheme}://{server.netloc}; "
        "form-action 'none'"
    )


def _row(row: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    cells = "".join(_cell(cell, pictures) for cell in row["cells"])
    return (
        f'<section data-row="{row["row"]}"><h2>{html.escape(row["label"])}</h2>'
        f'<div class="cells">{cells}</div><div class="more">'
        '<button type="button" data-tie="1" aria-pressed="false">A tie</button>'
        '<button type="button">Skip</button></div></section>'
    )


def _cell(cell: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    number, picture = cell["number"], cell["picture"]
    shown = f"<pre>{html.escape(cell['text'] or '')}</pre>"
    if picture is not None:
        source = base64.b64encode(pictures[picture["url"]]).decode()
        shown = (
            f'<img src="data:image/webp;base64,{source}" alt="picture {number}" '
            f'width="{picture["width"]}" height="{picture["height"]}">'
        )
    return (
        f'<figure>{shown}<button type="button" data-winner="{number}" aria-pressed="false">'
        f"{number} is better</button></figure>"
    )
