"""A comparison as one file that a browser opens by itself. Pure.

Everything is in it: the pictures, the style and the script. It asks nobody but the server that
keeps the votes, and goes on without it: then votes stay in the browser, and are saved as a file
that `swell models votes --file` takes. It holds nothing that tells which model made what.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

_STYLE: Final = """
:root{color-scheme:light dark;--fg:light-dark(#1b1f24,#e6e8ec);--bg:light-dark(#fff,#14171b);
--dim:light-dark(#5c6370,#9aa3b0);--line:light-dark(#dde1e8,#333a44);--on:light-dark(#2563c9,#7db0ff);
--card:light-dark(#f4f5f8,#1d2229)}
body{font:16px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);margin:0 auto;
max-width:90rem;padding:1.2rem}
h1{font-size:1.4rem;margin:0}p{color:var(--dim);margin:.4rem 0}
header{display:flex;gap:1rem;align-items:end;flex-wrap:wrap;margin-bottom:1rem}
header div{flex:1 1 24rem}label{font-size:14px;color:var(--dim)}
input{font:inherit;color:inherit;background:var(--card);border:1px solid var(--line);
border-radius:8px;padding:.4rem .6rem;display:block}
section{border-top:1px solid var(--line);padding:1rem 0 1.4rem}
section[aria-current=true]{border-top-color:var(--on);box-shadow:0 -1px 0 var(--on)}
h2{font-size:1rem;font-weight:600;white-space:pre-line;overflow-wrap:anywhere;margin:.2rem 0 .8rem}
.cells{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,15rem),1fr))}
figure{margin:0}img{width:100%;height:auto;display:block;border-radius:8px;background:var(--card)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:inherit;background:var(--card);
border-radius:8px;padding:.8rem;margin:0;max-height:24rem;overflow:auto}
button{font:inherit;color:inherit;background:var(--card);border:1px solid var(--line);
border-radius:8px;padding:.5rem 1rem;min-height:44px;cursor:pointer}
figure button{width:100%;margin-top:.6rem}
button[aria-pressed=true]{background:var(--on);border-color:var(--on);color:var(--bg)}
button:focus-visible,input:focus-visible{outline:3px solid var(--on);outline-offset:2px}
.more{display:flex;gap:.6rem;margin-top:.8rem}
footer{position:sticky;bottom:0;background:var(--bg);border-top:1px solid var(--line);
padding:.8rem 0;display:flex;gap:1rem;align-items:center;flex-wrap:wrap}
footer p{flex:1;margin:0}
"""

_SCRIPT: Final = r"""
"use strict";
const sheet = JSON.parse(document.getElementById("sheet").textContent);
const kept = "swell-votes-" + sheet.id;
const read = () => { try { return JSON.parse(localStorage.getItem(kept)) } catch { return null } };
const state = read() || {voter: "", votes: {}, sent: {}};
const write = () => { try { localStorage.setItem(kept, JSON.stringify(state)) } catch { } };
const drawn = n => [...crypto.getRandomValues(new Uint32Array(n))].map(
  each => each.toString(36).padStart(7, "0")).join("");
if (!state.voter) state.voter = "voter-" + drawn(2);
// Only who has it changes these votes: others may have the same name.
if (!state.voter_id) {
  state.voter_id = drawn(4);
  state.sent = {};
}
const told = document.getElementById("told");
const voter = document.getElementById("voter");
const rows = [...document.querySelectorAll("section")];
let current = 0, isGone = false;
voter.value = state.voter;
voter.addEventListener("change", () => {
  state.voter = voter.value.trim().slice(0, 200) || state.voter;
  voter.value = state.voter;
  state.sent = {};
  write();
  sendAll();
});
const same = (a, b) => a && b && a.winner === b.winner && a.tie === b.tie;
function show() {
  for (const row of rows) {
    const vote = state.votes[row.dataset.row];
    for (const button of row.querySelectorAll("[data-winner],[data-tie]")) {
      const isOn = vote && (button.dataset.tie ? vote.tie : vote.winner === +button.dataset.winner);
      button.setAttribute("aria-pressed", String(Boolean(isOn)));
    }
  }
  rows.forEach((row, at) => row.setAttribute("aria-current", String(at === current)));
  const all = Object.keys(state.votes).length;
  const there = Object.keys(state.votes).filter(row => same(state.votes[row], state.sent[row]));
  const left = all - there.length;
  told.textContent = all + " of " + rows.length + " rows voted. " + (isGone
    ? left + " of them are in this browser only: save them as a file, and send it to whoever "
      + "asked you."
    : left ? "Sending…"
    : all ? "All votes are kept by the server."
    : "Press 1, 2, … for the better one, t for a tie, s to skip.");
}
async function send(row) {
  const vote = state.votes[row];
  if (!sheet.url || same(vote, state.sent[row])) return;
  const by = {permit: sheet.permit, voter: state.voter, voter_id: state.voter_id};
  const body = JSON.stringify({...by, row: +row, ...vote});
  try {
    const headers = {"content-type": "text/plain"};
    const answer = await fetch(sheet.url, {method: "POST", body, headers});
    if (!answer.ok) throw new Error(String(answer.status));
    state.sent[row] = vote;
    isGone = false;
  } catch { isGone = true }
  write();
  show();
}
async function sendAll() { for (const row of Object.keys(state.votes)) await send(row); show(); }
function go(to) {
  current = Math.max(0, Math.min(rows.length - 1, to));
  rows[current].scrollIntoView({block: "nearest"});
  show();
}
function vote(at, said) {
  const row = rows[at].dataset.row;
  state.votes[row] = said;
  write();
  go(at + 1);
  send(row);
}
rows.forEach((row, at) => row.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.winner) vote(at, {winner: +button.dataset.winner});
  else if (button.dataset.tie) vote(at, {tie: true});
  else go(at + 1);
}));
document.addEventListener("keydown", event => {
  if (event.target === voter || event.ctrlKey || event.metaKey || event.altKey) return;
  const cells = rows[current].querySelectorAll("[data-winner]").length;
  if (/^[1-4]$/.test(event.key) && +event.key <= cells) vote(current, {winner: +event.key});
  else if (event.key === "t") vote(current, {tie: true});
  else if (event.key === "s" || event.key === "ArrowDown") go(current + 1);
  else if (event.key === "ArrowUp") go(current - 1);
  else return;
  event.preventDefault();
});
document.getElementById("save").addEventListener("click", () => {
  const votes = Object.entries(state.votes).map(([row, said]) => ({row: +row, ...said}));
  const by = {permit: sheet.permit, voter: state.voter, voter_id: state.voter_id};
  const told = {comparison: sheet.id, ...by, votes};
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(told)], {type: "application/json"}));
  link.download = "votes-" + sheet.id + ".json";
  link.click();
});
if (!sheet.url) isGone = true;
write();
sendAll();
"""


class SheetCell(msgspec.Struct, frozen=True, kw_only=True):
    """What can be voted for.

    Args:
        number: What a vote names, from 1 on.
        picture: A picture in WebP; empty for none.
        width: Of it, in px.
        height: Of it, in px.
        text: A text; empty for none.
    """

    number: int
    picture: bytes = b""
    width: int = 0
    height: int = 0
    text: str = ""


class SheetRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row in which there is a choice.

    Args:
        row: Its number in the comparison.
        label: What was asked for.
        cells: What there is to choose from.
    """

    row: int
    label: str
    cells: Sequence[SheetCell]


def sheet(
    comparison_id: str, name: str, rows: Sequence[SheetRow], *, ballots_url: str, permit: str
) -> str:
    """Return a comparison as an HTML document.

    Args:
        comparison_id: Of the comparison.
        name: For people.
        rows: Those in which there is a choice.
        ballots_url: Where votes are sent; empty for nowhere.
        permit: Lets it vote.
    """
    told = {"id": comparison_id, "url": ballots_url, "permit": permit}
    guarded = html.escape(_policy(ballots_url), quote=True)
    sections = "".join(_section(row) for row in rows)
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta http-equiv="content-security-policy" content="{guarded}">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="referrer" content="no-referrer"><title>{html.escape(name)}</title>
<style>{_STYLE}</style></head><body>
<header><div><h1>{html.escape(name)}</h1>
<p>Which one is better? Each row has an order of its own; who made what is told when all have
voted.</p></div><label>Your name <input id="voter" maxlength="200" autocomplete="off"></label>
</header><main>{sections}</main>
<footer><p id="told" role="status"></p><button id="save" type="button">Save votes as a file</button>
</footer>
<script type="application/json" id="sheet">{_in_script(told)}</script>
<script>{_SCRIPT}</script></body></html>
"""


def _policy(ballots_url: str) -> str:
    """Return what the document may do: run its own script, and ask one server."""
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    parts = urlsplit(ballots_url)
    server = f"{parts.scheme}://{parts.netloc}" if ballots_url else "'none'"
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; connect-src {server}; base-uri 'none'; form-action 'none'"
    )


def _section(row: SheetRow) -> str:
    cells = "".join(_figure(cell) for cell in row.cells)
    return (
        f'<section data-row="{row.row}"><h2>{html.escape(row.label)}</h2>'
        f'<div class="cells">{cells}</div><div class="more">'
        f'<button type="button" data-tie="1" aria-pressed="false">A tie</button>'
        f'<button type="button">Skip</button></div></section>'
    )


def _figure(cell: SheetCell) -> str:
    number = cell.number
    if cell.picture:
        source = base64.b64encode(cell.picture).decode()
        shown = (
            f'<img src="data:image/webp;base64,{source}" alt="picture {number}" '
            f'width="{cell.width}" height="{cell.height}">'
        )
    else:
        shown = f"<pre>{html.escape(cell.text)}</pre>"
    return (
        f'<figure>{shown}<button type="button" data-winner="{number}" aria-pressed="false">'
        f"{number} is better</button></figure>"
    )


def _in_script(value: Mapping[str, Any]) -> str:
    """Return JSON in which nothing ends the element that it stands in."""
    return json.dumps(value).replace("<", "\\u003c")
