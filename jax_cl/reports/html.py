"""Blocks of `tables` as one self-contained page: no script, no other file."""

from __future__ import annotations

import base64
import html
import pathlib
import re
from collections.abc import Iterable

from jax_cl.reports import tables

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733;
  background: #fff; max-width: 62rem; margin: 2.5rem auto; padding: 0 1.25rem }
h1 { font-size: 1.6rem; margin: 0 0 .5rem }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-bottom: .2rem;
  border-bottom: 1px solid #dde3ea }
p { margin: .6rem 0; color: #41505f; max-width: 48rem }
img { max-width: 100%; height: auto; display: block; margin: .8rem 0 }
.scroll { overflow-x: auto } table { border-collapse: collapse; margin: .8rem 0;
  font-variant-numeric: tabular-nums; font-size: .9rem }
th { text-align: right; font-weight: 600; border-bottom: 2px solid #b8c4d0 }
th, td { padding: .3rem .8rem; white-space: nowrap }
td { text-align: right; border-bottom: 1px solid #e8edf2 }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
tr.fixed td { color: #7a8896 }
code, pre { font: .88em/1.5 ui-monospace, monospace; background: #f3f6f9;
  border-radius: 4px; padding: .1em .35em } pre { padding: .8rem 1rem;
  overflow-x: auto }
"""


def render(blocks: Iterable[tables.Block], folder: str | pathlib.Path) -> str:
  """The page; images are read from `folder` and put into it."""
  blocks = list(blocks)
  folder = pathlib.Path(folder)
  heads = [b.text for b in blocks if isinstance(b, tables.Heading)]
  body = "\n".join(_block(b, folder) for b in blocks)
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{html.escape(heads[0] if heads else 'jax_cl')}</title>\n"
    f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
  )


def _block(block: tables.Block, folder: pathlib.Path) -> str:
  match block:
    case tables.Heading(text, level):
      return f"<h{level}>{_inline(text)}</h{level}>"
    case tables.Text(text):
      return f"<p>{_inline(text)}</p>"
    case tables.Code(text):
      return f"<pre>{html.escape(text)}</pre>"
    case tables.Image(file, alt):
      data = base64.b64encode((folder / file).read_bytes()).decode()
      alt = html.escape(alt, quote=True)
      return f'<img alt="{alt}" src="data:image/png;base64,{data}">'
    case tables.Table(header, rows):
      head = "".join(f"<th>{_inline(c)}</th>" for c in header)
      body = "\n".join(map(_row, rows))
      return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
      )


def _row(cells) -> str:
  fixed = ' class="fixed"' if cells and cells[0].startswith("(") else ""
  inner = "".join(f"<td>{_inline(c)}</td>" for c in cells)
  return f"<tr{fixed}>{inner}</tr>"


def _inline(text: str) -> str:
  text = html.escape(text)
  text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
  return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
