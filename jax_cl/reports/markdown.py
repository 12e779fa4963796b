"""Blocks of `tables` as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from jax_cl.reports import tables


def render(blocks: Iterable[tables.Block]) -> str:
  return "\n\n".join(_block(b) for b in blocks) + "\n"


def _block(block: tables.Block) -> str:
  match block:
    case tables.Heading(text, level):
      return f"{'#' * level} {text}"
    case tables.Text(text):
      return text
    case tables.Code(text):
      return f"```\n{text}\n```"
    case tables.Image(file, alt):
      return f"![{alt}]({file})"
    case tables.Table(header, rows):
      line = lambda cells: "| " + " | ".join(map(_cell, cells)) + " |"
      rule = "| --- |" + " ---: |" * (len(header) - 1)
      return "\n".join([line(header), rule, *map(line, rows)])


def _cell(text: str) -> str:
  return text.replace("|", "\\|").replace("\n", " ")
