"""The frame of all pages for people: no script, no font and no picture from elsewhere."""

import html
from typing import Final

from swell.api.call import Reply

_HTML: Final = b"text/html; charset=utf-8"

_STYLE: Final = """
:root{color-scheme:light dark;--fg:#121a29;--bg:#fafcfe;--dim:#505b6c;--line:#dfe3ea;--code:#eef2f6;
--link:#00619f}
@media(prefers-color-scheme:dark){:root{--fg:#eef1f5;--bg:#0b0e15;--dim:#a3acba;--line:#262d3a;
--code:#171c26;--link:#6ac2f7}}
body{font:16px/1.55 -apple-system,"Segoe UI",Roboto,"Noto Sans",system-ui,sans-serif;
color:var(--fg);background:var(--bg);max-width:54rem;
margin:1.5rem auto 4rem;padding:0 1rem;overflow-wrap:break-word}
a{color:var(--link);text-underline-offset:.18em}h1,h2,h3{line-height:1.2;letter-spacing:-.02em}
h1{margin:.6rem 0}h2{margin-top:2.2em}
code,pre{font:14px/1.45 ui-monospace,monospace;background:var(--code);border-radius:4px}
code{padding:.1em .3em}pre{padding:.8em;overflow:auto;margin:.8em 0}pre code{padding:0}
pre.wrap{white-space:pre-wrap;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}
td,th{border-bottom:1px solid var(--line);padding:.35em .5em;text-align:left;vertical-align:top}
td:first-child,th:first-child{padding-left:0}
.wide{overflow-x:auto;margin:.9em 0}.dim{color:var(--dim)}
small,figcaption{font-size:14px;color:var(--dim)}
img{max-width:100%;height:auto;border-radius:12px}audio{width:100%}
figure{margin:0}figcaption{margin-top:.3em}
ul.chips{list-style:none;display:flex;flex-wrap:wrap;gap:.4rem;padding:0;margin:.8em 0}
.chips li{background:var(--code);border-radius:1em;padding:.1em .8em;font-size:14px}
.samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:1rem;
margin:1.2em 0}.samples img{width:100%;display:block}
.samples .long{grid-column:1/-1}.samples blockquote{margin:0;white-space:pre-line;
background:var(--code);border-radius:8px;padding:.8em 1em}
.models{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr));gap:.8rem;
padding:0;list-style:none}
.models a{display:flex;gap:.9rem;align-items:center;color:inherit;text-decoration:none;
border:1px solid var(--line);border-radius:20px;padding:.9rem;height:100%;box-sizing:border-box}
.models a:hover,.models a:focus-visible{border-color:var(--link)}
.models b{color:var(--fg)}.models p{margin:.1em 0;line-height:1.4}
.models .face{flex:none;width:72px;height:72px;border-radius:12px;background:var(--code);
display:grid;place-items:center;font:600 26px/1 system-ui,sans-serif;color:var(--dim);
object-fit:cover}
.models div{min-width:0}
dl.fields{margin:.8em 0}.fields dt{border-top:1px solid var(--line);padding-top:.5em}
.fields dd{margin:.1em 0 .6em}.fields p{margin:0}
.inputs{display:flex;gap:1rem;align-items:flex-start;flex-wrap:wrap}
.shared img{display:block;max-height:80vh;margin:0 auto 1rem}
.shared .go{display:inline-block;background:var(--link);color:var(--bg);text-decoration:none;
border-radius:12px;padding:.7em 1.3em;font-weight:600}
.inputs pre{flex:1 1 16rem;min-width:0;margin:0}.inputs img{width:96px}.inputs{margin:.8em 0}
"""

_HEADERS: Final = [
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; media-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]

#: The mark of the app, in one colour; within the page, so that no browser asks for another file.
_ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E"
    "%3Crect width='32' height='32' rx='9' fill='%230b6aab'/%3E%3Cpath fill='none' stroke='%23fff' "
    "stroke-width='3' stroke-linecap='round' d='M5 13c4.5-6 8-6 11-1s6.5 5 11-1M5 21.5c4.5-6 8-6 11"
    "-1s6.5 5 11-1'/%3E%3C/svg%3E"
)


def page(title: str, body: str, *, head: str = "", language: str = "en") -> Reply:
    """Return a whole page.

    Args:
        title: Of it, as it is.
        body: HTML in which everything of others is escaped.
        head: The same, for what is not shown.
        language: In which it is written.
    """
    text = (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="{_ICON}"><title>{html.escape(title)}</title>'
        f"{head}<style>{_STYLE}</style></head><body>{body}</body></html>"
    )
    return Reply(200, text.encode(), _HTML, headers=list(_HEADERS))
