"""Pictures of results: PNG files by matplotlib, without a display."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jax_cl.reports import tables

Results = Mapping[str, Any]

# Okabe & Ito's palette without yellow: told apart by colour-blind readers.
COLOURS = (
  "#0072B2",
  "#D55E00",
  "#009E73",
  "#CC79A7",
  "#56B4E9",
  "#E69F00",
  "#4d4d4d",
)
_INK, _FAINT = "#1c2733", "#8794a1"
_STYLE: dict[Any, Any] = {
  "font.size": 10,
  "axes.titlesize": 11,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.edgecolor": _FAINT,
  "axes.labelcolor": _INK,
  "text.color": _INK,
  "xtick.color": _INK,
  "ytick.color": _INK,
  "legend.frameon": False,
  "figure.facecolor": "white",
  "axes.grid.axis": "y",
  "grid.color": "#e3e8ee",
}


_NAME = 0.42  # lines of bars that the name of a fixed policy takes
# Under text that lines cross.
_PAPER = {"fc": "white", "ec": "none", "pad": 0.6}
_BOX = "framed: what the stage trains on"


def matrix(
  results: Results, path: str | pathlib.Path, split: str = "test"
) -> None:
  """R as a heat map with its numbers, fixed policies beneath."""
  with matplotlib.rc_context(_STYLE):
    fixed = tables.references(results, split)
    height = 1.0 + 0.62 * len(results[split]["matrix"]) + 0.3 * len(fixed)
    width = 2.4 + 1.35 * len(results["domains"])
    fig = Figure((max(width, 4.6), height), layout="constrained")
    _heat(fig.add_subplot(), results, split, fixed)
    fig.suptitle(
      f"Reward on {split} after each stage",
      x=0.02,
      ha="left",
      weight="bold",
    )
    _caption(fig, _BOX)
    _save(fig, path)


def curves(results: Results, path: str | pathlib.Path) -> None:
  """Reward of each domain over the stream; bands are ± a standard error.

  A stage is a column, named above. The split is the one evaluated more often
  (val, where a run evaluates between the ends of its stages).
  """
  splits = [s for s in ("test", "val") if s in results]
  points = lambda s: max(map(len, results[s]["curves"].values()), default=0)
  split = max(splits, key=points)
  with matplotlib.rc_context(_STYLE):
    fig = Figure((8.6, 3.9), layout="constrained")
    ax = fig.add_subplot()
    fixed = tables.references(results, split)
    for j, domain in enumerate(results["domains"]):
      colour = COLOURS[j % len(COLOURS)]
      _line(ax, results[split]["curves"][domain], domain, colour)
      if floor := [
        f[domain] for n, f in fixed.items() if _is_floor(n, f, domain)
      ]:
        ax.axhline(max(floor), color=colour, lw=1, ls=(0, (1, 2)), zorder=1)
    _stages(ax, results["stages"])
    _unit_axis(ax, f"reward on {split}")
    note = "bands: ± standard error over tasks"
    note += "; dotted: best floor" if fixed else ""
    fig.legend(loc="outside lower left", ncols=len(results["domains"]))
    ax.set_title("Reward by domain over the stream", pad=22)
    _note(fig, note)
    _save(fig, path)


def methods(comparison: Mapping[str, Any], path: str | pathlib.Path) -> None:
  """Average performance and forgetting by method, with intervals and floors."""
  found = comparison["methods"]
  fixed = comparison["references"]
  lines = len(found) + _NAME * len(fixed)
  with matplotlib.rc_context(_STYLE):
    fig = Figure((9.2, 1.5 + 0.44 * max(lines, 3)), layout="constrained")
    axes = fig.subplots(1, 2, sharey=True)
    panels = (
      ("average_performance", "Average performance", "higher is better"),
      ("forgetting", "Forgetting", "lower is better"),
    )
    for ax, (key, name, note) in zip(axes, panels, strict=True):
      for i, (method, m) in enumerate(found.items()):
        colour = _FAINT if method.endswith("(A/A)") else COLOURS[0]
        _bar(
          ax,
          i,
          m["metrics"].get(key),
          [r["metrics"][key] for r in m["runs"]],
          colour,
        )
      ax.set_title(f"{name}\n", pad=2)
      ax.text(0, 1.02, note, transform=ax.transAxes, color=_FAINT, fontsize=9)
      ax.grid(True, axis="x")
      ax.set_axisbelow(True)
      ax.axvline(0, color=_FAINT, lw=1)
      ax.margins(x=0.14)
    names = [tables.label(name, comparison) for name in found]
    axes[0].set_yticks(range(len(found)), names)
    axes[0].set_xlim(left=0)
    beyond = _reference_lines(axes[0], fixed, len(found) - 0.3)
    axes[0].set_ylim(lines - _NAME * len(beyond) - 0.5, -0.5)
    _caption(
      fig,
      "bars: mean over runs; lines: 95% over tasks and runs; dots: runs"
      + "".join(f"; {name}: {x:.3f}" for name, x in beyond.items()),
    )
    _save(fig, path)


def _bar(ax, i: int, e, runs: Sequence[float | None], colour: str) -> None:
  """One method: mean, interval, a dot a run, and the mean in figures."""
  if not e or e["mean"] is None:
    ax.text(0, i, " undefined", va="center", color=_FAINT, fontsize=9)
    return
  known = [x for x in runs if x is not None]
  ax.barh(i, e["mean"], height=0.62, color=colour, alpha=0.85, zorder=2)
  ends = [[e["mean"] - e["low"]], [e["high"] - e["mean"]]]
  ax.errorbar(
    e["mean"], i, xerr=np.maximum(ends, 0), color=_INK, lw=1.4, capsize=3
  )
  ax.plot(
    known, [i] * len(known), "o", color="white", ms=3.6, mec=_INK, mew=0.7,
    zorder=4,
  )  # fmt: skip
  right = max(e["high"], 0, *known)
  ax.annotate(
    f"{e['mean']:.3f}",
    (right, i),
    (6, 0),
    textcoords="offset points",
    va="center",
    fontsize=9,
    bbox=_PAPER,
    zorder=5,
  )


def matrices(comparison: Mapping[str, Any], path: str | pathlib.Path) -> None:
  """The heat map of every method, mean over seeds, in the first order."""
  shown = {k: v for k, v in comparison["matrices"].items() if v}
  with matplotlib.rc_context(_STYLE):
    n = max(len(shown), 1)
    columns = min(n, 3)
    lines = -(-n // columns)
    domains = max((len(m["domains"]) for m in shown.values()), default=1)
    rows = max((len(m["stages"]) + 1 for m in shown.values()), default=1)
    size = (columns * (1.5 + 1.05 * domains), lines * (1.2 + 0.52 * rows))
    fig = Figure(size, layout="constrained")
    axes = fig.subplots(lines, columns, squeeze=False).ravel()
    for ax, (name, m) in zip(axes, shown.items(), strict=False):
      _heat(ax, {**m, "all": {"matrix": m["matrix"]}}, "all", {})
      ax.set_title(name, pad=24)
    for ax in axes[len(shown) :]:
      ax.set_axis_off()
    if m := next(iter(shown.values()), None):
      order = ", ".join(s["name"] for s in m["stages"])
      _caption(fig, f"mean over {m['runs']} runs of the order {order}; {_BOX}")
    _save(fig, path)


def compare_curves(
  comparison: Mapping[str, Any], path: str | pathlib.Path
) -> None:
  """Mean reward over all domains along the stream, ± 1.96 se over runs."""
  with matplotlib.rc_context(_STYLE):
    fig = Figure((8.6, 3.9), layout="constrained")
    ax = fig.add_subplot()
    for i, (name, points) in enumerate(comparison["curves"].items()):
      band = [[s, m, None if se is None else 1.96 * se] for s, m, se in points]
      _line(ax, band, name, COLOURS[i % len(COLOURS)])
    found = comparison["references"]
    if floors := [x for k, x in found.items() if k in FLOORS]:
      ax.axhline(
        max(floors), color=_FAINT, lw=1, ls=(0, (1, 2)), label="best floor"
      )
    if comparison["stages"]:
      _stages(
        ax,
        [
          {"name": f"stage {i}", **s}
          for i, s in enumerate(comparison["stages"])
        ],
      )
    _unit_axis(ax, f"mean reward on {comparison['curves_split']}, all domains")
    fig.legend(loc="outside lower left", ncols=5)
    ax.set_title("Mean over all domains, over the stream", pad=22)
    _note(fig, "bands: 95% over runs")
    _save(fig, path)


# ------------------------------------------------------------------- internals


def _heat(ax, results, split, fixed) -> None:
  scores, domains = results[split], results["domains"]
  table = np.array(scores["matrix"], float)
  rows, N = table.shape
  ax.imshow(
    np.ma.masked_invalid(table), cmap="Blues", vmin=0, vmax=1.25, aspect="auto"
  )
  for i in range(rows):
    for j in range(N):
      x = table[i, j]
      ink = "white" if x > 0.72 else _INK
      se = scores["se"][i][j] if scores.get("se") else None
      ax.text(
        j,
        i if se is None else i - 0.1,
        tables.number(x),
        color=ink,
        ha="center",
        va="center",
        fontsize=11,
      )
      if se is not None:
        ax.text(
          j,
          i + 0.24,
          f"± {se:.3f}",
          color=ink,
          ha="center",
          va="center",
          fontsize=7.5,
        )
      if i and domains[j] in results["stages"][i - 1]["domains"]:
        box = Rectangle(
          (j - 0.47, i - 0.46),
          0.94,
          0.92,
          fill=False,
          ec=COLOURS[1],
          lw=1.8,
          zorder=3,
        )
        ax.add_patch(box)
  names = ["start"]
  names += [f"{i}: {s['name']}" for i, s in enumerate(results["stages"])]
  # Fixed policies are no part of R: lower lines, set apart, without colour.
  places = [*range(rows), *(rows - 0.05 + 0.48 * n for n in range(len(fixed)))]
  for n, (name, per) in enumerate(fixed.items()):
    names.append(name)
    for j, d in enumerate(domains):
      ax.text(
        j,
        places[rows + n],
        tables.number(per.get(d)),
        color=_FAINT,
        ha="center",
        va="center",
        fontsize=10,
      )
  ax.set_ylim(places[-1] + (0.25 if fixed else 0.5), -0.5)
  # A family of tasks ("telecom:mms_issue") is wider than its column.
  ax.set_xticks(range(N), [d.replace(":", ":\n") for d in domains])
  ax.set_yticks(places, names)
  for label in ax.get_yticklabels()[rows:]:
    label.set_color(_FAINT)
  ax.xaxis.tick_top()
  ax.tick_params(length=0)
  ax.spines[:].set_visible(False)
  ax.set_xticks(np.arange(N + 1) - 0.5, minor=True)
  ax.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
  ax.grid(True, which="minor", axis="both", color="white", lw=2)
  ax.tick_params(which="minor", length=0)


def _line(ax, points: Sequence[Sequence[Any]], label: str, colour: str) -> None:
  known = [p for p in points if p[1] is not None]
  if not known:
    return
  x, y = np.array([p[:2] for p in known], float).T
  se = np.array([p[2] or 0 for p in known], float)
  many = len(x) > 25
  ax.plot(
    x,
    y,
    "-" if many else "-o",
    color=colour,
    ms=4,
    lw=1.8,
    label=label,
    zorder=3,
    clip_on=False,
  )
  ax.fill_between(x, y - se, y + se, color=colour, alpha=0.15, lw=0, zorder=2)


def _stages(ax, stages) -> None:
  """Columns of the stream, every other one shaded, named above the axes."""
  start = 0
  for i, stage in enumerate(stages):
    end = start + stage["steps"]
    if i % 2 == 0:
      ax.axvspan(start, end, color="#f3f6f9", lw=0, zorder=0)
    ax.text(
      (start + end) / 2,
      1.02,
      stage["name"],
      ha="center",
      fontsize=9,
      color=_FAINT,
      transform=ax.get_xaxis_transform(),
    )
    start = end
  ax.set_xlim(0, max(start, 1))


def _unit_axis(ax, label: str) -> None:
  ax.set_ylim(-0.02, 1.02)
  ax.set_ylabel(label)
  ax.set_xlabel("optimiser steps")
  ax.grid(True)
  ax.set_axisbelow(True)


def _is_floor(name: str, scores: Mapping[str, float], domain: str) -> bool:
  return name in FLOORS and scores.get(domain) is not None


FLOORS = ("do_nothing", "always_transfer", "random")


def _reference_lines(
  ax, found: Mapping[str, float], top: float
) -> dict[str, float]:
  """Fixed policies as vertical lines, each named on a line of its own from
  `top` down. Those to the right of the axis (the oracle's 1) would only
  squeeze the bars, and come back."""
  low, high = ax.get_xlim()
  beyond = {k: x for k, x in found.items() if not low <= x <= high}
  shown = {k: x for k, x in found.items() if k not in beyond}
  for n, (name, x) in enumerate(sorted(shown.items(), key=lambda f: f[1])):
    ax.axvline(x, color=_INK, lw=1, ls=(0, (1, 2)), zorder=3)
    ax.annotate(
      f"{name} {x:.3f}",
      (x, top + _NAME * n),
      (3, 0) if x < (low + high) / 2 else (-3, 0),
      textcoords="offset points",
      fontsize=8,
      ha="left" if x < (low + high) / 2 else "right",
      va="center",
      bbox=_PAPER,
      zorder=5,
    )
  return beyond


def _caption(fig: Figure, text: str) -> None:
  fig.supxlabel(text, fontsize=9, color=_FAINT)


def _note(fig: Figure, text: str) -> None:
  fig.text(0.99, 0.02, text, ha="right", fontsize=9, color=_FAINT)


def _save(fig: Figure, path: str | pathlib.Path) -> None:
  FigureCanvasAgg(fig)
  # No software version or date inside: the same results, the same bytes.
  fig.savefig(path, dpi=150, metadata={"Software": None})
