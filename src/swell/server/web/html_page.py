"""The frame of the server's own pages: no script, no font and no picture from elsewhere."""

import html
from typing import Final

from swell.server.request import Reply

_HTML: Final = b"text/html; charset=utf-8"

_STYLE: Final = """
:root{color-scheme:light dark;--fg:#121a29;--bg:#fafcfe;--dim:#505b6c;--line:#dfe3ea;--code:#eef2f6;
--link:#00619f}
@media(prefers-color-scheme:dark){:root{--fg:#eef1f5;--bg:#0b0e15;--dim:#a3acba;--line:#262d3a;
--code:#171c26;--link:#6ac2f7}}
body{font:16px/1.55 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:54rem;
margin:1.5rem auto 4rem;padding:0 1rem;overflow-wrap:break-word}
a{color:var(--link)}h1,h2,h3{line-height:1.2}h2{margin-top:2.2em}
code,pre{font:14px/1.45 ui-monospace,monospace;background:var(--code);border-radius:4px}
code{padding:.1em .3em}pre{padding:.8em;overflow:auto}pre code{padding:0}
table{display:block;overflow-x:auto;border-collapse:collapse}
td,th{border-bottom:1px solid var(--line);padding:.35em .5em;text-align:left;vertical-align:top}
.dim{color:var(--dim)}img{max-width:100%;height:auto;border-radius:12px}
.shared img{display:block;max-height:80vh;margin:0 auto 1rem}
.shared .go{display:inline-block;background:var(--link);color:var(--bg);text-decoration:none;
border-radius:12px;padding:.7em 1.3em;font-weight:600}
"""

_POLICY: Final = (
    b"default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

#: The app's mark in one color, inline so that browsers do not request another file.
_ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E"
    "%3Crect width='32' height='32' rx='9' fill='%230b6aab'/%3E%3Cpath fill='none' stroke='%23fff' "
    "stroke-width='3' stroke-linecap='round' d='M5 13c4.5-6 8-6 11-1s6.5 5 11-1M5 21.5c4.5-6 8-6 11"
    "-1s6.5 5 11-1'/%3E%3C/svg%3E"
)


def page(title: str, body: str, *, head: str = "", language: str = "en") -> Reply:
    """Return a complete page.

    Args:
        title: Plain text.
        body: HTML, with all foreign text escaped.
        head: More tags for the head, escaped as well.
        language: Language code of the text.
    """
    text = (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="{_ICON}"><title>{html.escape(title)}</title>'
        f"{head}<style>{_STYLE}</style></head><body>{body}</body></html>"
    )
    return Reply(200, text.encode(), _HTML, headers=[(b"content-security-policy", _POLICY)])
