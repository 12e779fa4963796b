"""Results as blocks of text: what a report says, whatever it is written in.

`run(results)` and `comparison(comparison)` return blocks that `markdown` and
`html` render. Inputs are the dicts of `results.json` and `compare.json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Results = Mapping[str, Any]

# What a reader should know before comparing a number with somebody else's.
NOTES = (
  "The maximum over noisy evaluations biases `forgetting` upward; the baseline "
  "of `fwt_zero_shot` is the starting policy; `learning_gain` trains on the "
  "domain itself, so it is not transfer."
)


class Heading(NamedTuple):
  text: str
  level: int = 2


class Text(NamedTuple):
  text: str  # `code` and **bold** are the only marks


class Table(NamedTuple):
  header: Sequence[str]
  rows: Sequence[Sequence[str]]


class Image(NamedTuple):
  file: str  # beside the report
  alt: str


class Code(NamedTuple):
  text: str


Block = Heading | Text | Table | Image | Code


def number(x: Any, digits: int = 3, sign: bool = False) -> str:
  """`.423`-like cells; a dash where there is no number."""
  if x is None or not math.isfinite(x):
    return "–"
  return format(x, f"{'+' if sign else ''}.{digits}f")


def plain(table: Table) -> str:
  """Columns set by spaces, for a terminal; marks are dropped."""
  clean = lambda row: [c.replace("`", "").replace("**", "") for c in row]
  lines = [clean(table.header), *map(clean, table.rows)]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  out = []
  for first, *rest in lines:
    cells = [f"{c:>{w}}" for c, w in zip(rest, widths[1:], strict=True)]
    out.append("  ".join([f"{first:<{widths[0]}}", *cells]))
  return "\n".join(out)


def with_interval(mean, low=None, high=None, sign: bool = False) -> str:
  text = number(mean, sign=sign)
  if low is None or high is None or mean is None:
    return text
  return f"{text} [{number(low, sign=sign)}, {number(high, sign=sign)}]"


def title(results: Results) -> str:
  stream = " → ".join(s["name"] for s in results["stages"])
  return f"{results['method']} on {stream}, seed {results['seed']}"


def matrix(results: Results, split: str, key: str = "matrix") -> Table:
  """Stages down, domains across; own stages bold; floors and ceilings below."""
  scores, domains = results[split], results["domains"]
  rows = []
  for i, cells in enumerate(scores[key]):
    name = "start" if i == 0 else f"{i - 1}: {results['stages'][i - 1]['name']}"
    row = []
    for j, x in enumerate(cells):
      text = number(x)
      if key == "matrix" and (se := scores["se"][i][j]) is not None:
        text += f" ± {number(se)}"
      trained = i and domains[j] in results["stages"][i - 1]["domains"]
      row.append(f"**{text}**" if trained else text)
    rows.append([name, *row])
  if key == "matrix":
    for name, per in references(results, split).items():
      rows.append([f"({name})", *(number(per.get(d)) for d in domains)])
  return Table(["after stage", *domains], rows)


def references(
  results: Results, split: str, key: str = "references"
) -> dict[str, Mapping[str, float]]:
  """Scores of fixed policies on this split: name -> domain -> score.

  `key` "references_write": on the tasks that require a write alone.
  """
  found = results.get(key) or {}
  return {k: v[split] for k, v in found.items() if v.get(split)}


def metric_table(scores: Mapping[str, Any]) -> Table:
  rows = [
    [f"`{k}`", with_interval(v, *scores["intervals"].get(k, ()))]
    for k, v in scores["metrics"].items()
    if v is not None
  ]
  return Table(["metric", "value [95% interval]"], rows)


def history(results: Results, split: str) -> Table:
  """The metrics after every stage, over the domains seen by then."""
  steps = results[split]["history"]
  names = list(steps[0]) if steps else []
  rows = [
    [f"{i}: {results['stages'][i]['name']}", *(number(s[n]) for n in names)]
    for i, s in enumerate(steps)
  ]
  return Table(["after stage", *(f"`{n}`" for n in names)], rows)


def by_domain(results: Results, split: str) -> Table:
  """The final policy, domain by domain."""
  scores = results[split]
  last = lambda key, j: scores[key][-1][j]
  ks = [k for k in scores["pass_hat_k"] if k != "1"]
  rows = []
  for j, d in enumerate(results["domains"]):
    rows.append(
      [
        d,
        f"{scores['tasks'][d]} ({scores['episodes'][d]})",
        number(last("matrix", j)),
        number(last("pass", j)),
        *(number(scores["pass_hat_k"][k][-1][j]) for k in ks),
        number(scores["write_only"]["matrix"][-1][j])
        + f" ({scores['write_only']['tasks'][d]} tasks)",
        number(last("tool_accuracy", j)),
        number(last("argument_accuracy", j)),
      ]
    )
  header = ["domain", "tasks (episodes)", "reward", "pass"]
  header += [f"pass^{k}" for k in ks]
  header += ["reward where a write is required", "tool acc.", "argument acc."]
  return Table(header, rows)


def where_writing(results: Results, split: str) -> Table:
  """The final policy on tasks that require a write, and what is to be had."""
  scores, domains = results[split]["write_only"], results["domains"]
  last = scores["matrix"][-1]
  rows = [
    ["tasks", *(str(scores["tasks"][d]) for d in domains)],
    ["final policy", *(number(x) for x in last)],
  ]
  for name, per in references(results, split, "references_write").items():
    rows.append([f"({name})", *(number(per.get(d)) for d in domains)])
  return Table(["", *domains], rows)


def protocol(found: Mapping[str, Any] | None) -> list[Block]:
  """The named settings a score carries, and where the run departs from them."""
  if not found:
    return []
  text = f"Protocol `{found.get('name', 'unnamed')}`"
  if digest := found.get("data_hash"):
    text += f", data `{digest}`"
  if other := found.get("deviations"):
    parts = [f"{k} {_short(v['run'])}" for k, v in other.items()]
    text += f", with deviations: {'; '.join(parts)}"
  blocks: list[Block] = [Text(text + ".")]
  if note := found.get("note"):
    blocks.append(Text(note))
  return blocks


def _short(x: Any) -> str:
  return ", ".join(map(_short, x)) if isinstance(x, list) else str(x)


def summary(values: Mapping[str, float]) -> list[Block]:
  """Figures of the whole run (`Problem.summary`)."""
  return [
    Text(f"`{name}` {value:.3f}: {MEANING.get(name, '')}".rstrip(": "))
    for name, value in values.items()
  ]


MEANING = {
  "shared_parameters": "the share of parameters that demonstrations of two or "
  "more domains move; what one alone moves, no other makes it forget.",
}


def warm_starts(
  found: Sequence[Mapping[str, Any]], level: int = 2
) -> list[Block]:
  """What the policy gradient added on val, stage by stage."""
  if not found:
    return []
  rows = [
    [
      f"{w['stage']}: {w['name']}",
      w["domain"],
      number(w["warm"]),
      number(w["after"]),
      with_interval(w["rise"], *w["interval"], sign=True),
      str(w["tasks"]),
    ]
    for w in found
  ]
  header = ["stage", "domain", "when it had cloned", "at its end"]
  return [
    Heading("What the policy gradient added, on val", level),
    Table([*header, "rise [95%], paired by task", "tasks"], rows),
  ]


def run(results: Results, workdir: str = "WORKDIR") -> list[Block]:
  """The report of one run."""
  split = "test" if "test" in results else "val"
  scores = results[split]
  blocks: list[Block] = [Heading(title(results), 1)]
  blocks += protocol(results.get("protocol"))
  blocks += [
    Heading(f"Reward on {split}"),
    Image("matrix.png", f"reward on {split} after each stage, by domain"),
    matrix(results, split),
    Text(
      "Each cell is the mean over tasks ± its standard error; **bold** where "
      "the stage trained on the domain. Lines in parentheses are fixed "
      "policies: floors that cost nothing to reach, and ceilings."
    ),
  ]
  if scores["failures"]:
    blocks.append(
      Text(
        f"{scores['failures']} episodes failed for reasons outside the agent; "
        "they are left out, not counted as 0."
      )
    )
  blocks += [
    Heading("Transfer"),
    metric_table(scores),
    Text(NOTES),
    *summary(results.get("summary") or {}),
    Text(
      "Intervals are a bootstrap over tasks; one run says nothing of the "
      "spread between seeds and orders, which `python -m jax_cl.compare` "
      "measures."
    ),
    Heading("Learning curves"),
    Image("curves.png", "reward by domain over the stream"),
    Heading("After every stage"),
    history(results, split),
    Heading("The final policy"),
    by_domain(results, split),
    Heading("Tasks that require a write"),
    where_writing(results, split),
    metric_table(scores["write_only"]),
  ]
  if split == "test" and "val" in results:
    blocks += [
      Heading("Validation"),
      matrix(results, "val"),
      Text("Every choice was made here; test was read for the matrix alone."),
    ]
  blocks += [
    *warm_starts(results.get("warm_starts") or ()),
    Heading("Again"),
    Code(
      f"python -m jax_cl.evaluate --workdir={workdir} --stage=0  # one row\n"
      f"python -m jax_cl.metrics --workdir={workdir}             # all metrics"
    ),
  ]
  return blocks


# ----------------------------------------------------------------- comparisons

HEADLINE = (
  "average_performance",
  "forgetting",
  "backward_transfer",
  "plasticity",
)


def estimate(e: Mapping[str, Any] | None, sign: bool = False) -> str:
  if not e:
    return "–"
  return with_interval(e["mean"], e["low"], e["high"], sign=sign)


TOLD = (
  "† is told at test time which stage a domain belongs to, which is another "
  "task: not to be ranked with the others, nor compared with the baseline."
)


def label(name: str, comparison: Mapping[str, Any]) -> str:
  return f"{name} †" if name in comparison.get("told", ()) else name


def methods(comparison: Mapping[str, Any], key: str = "metrics") -> Table:
  """A row a method with intervals; floors and ceilings below.

  With `published` figures (mean and sd over seeds of average_performance) ours
  stand beside them in the same form.
  """
  published = comparison.get("published") if key == "metrics" else None
  rows = []
  for name, m in comparison["methods"].items():
    cells = [estimate(m[key].get(h)) for h in HEADLINE]
    theirs = _beside(m, name, published) if published else []
    runs = str(len(m["runs"]))
    rows.append([label(name, comparison), runs, *cells, *theirs])
  fixed = "references" if key == "metrics" else "references_write"
  for name, average in (comparison.get(fixed) or {}).items():
    blank = [""] * (len(HEADLINE) - 1 + 2 * bool(published))
    rows.append([f"({name})", "", number(average), *blank])
  header = ["method", "runs", *(f"`{h}`" for h in HEADLINE)]
  more = ["mean ± sd", published["source"]] if published else []
  return Table([*header, *more], rows)


def _beside(m: Mapping[str, Any], name: str, published: Mapping[str, Any]):
  """Our mean ± sd over runs, and the published."""
  form = lambda mean, sd: f"{number(mean)} ± {number(sd)}"
  ours = m["metrics"]["average_performance"]
  theirs = published.get(name)
  return [
    form(ours["mean"], ours["sd_runs"]), form(*theirs) if theirs else "–"
  ]  # fmt: skip


def method_domains(comparison: Mapping[str, Any]) -> Table:
  """The final policy's reward, domain by domain."""
  found = comparison["methods"]
  domains = list(next(iter(found.values()))["domains"])
  rows = [
    [label(name, comparison), *(estimate(m["domains"][d]) for d in domains)]
    for name, m in found.items()
  ]
  for name, per in comparison["references_by_domain"].items():
    rows.append([f"({name})", *(number(per.get(d)) for d in domains)])
  return Table(["method", *domains], rows)


def differences(comparison: Mapping[str, Any]) -> Table:
  """Paired differences from the baseline, the A/A repeat among them."""
  rows = []
  for name, d in comparison["differences"].items():
    for h in HEADLINE:
      if e := d.get(h):
        # The p stands alone: fewer than six pairs cannot reach .05.
        p = "–" if e["p"] is None else number(e["p"])
        rows.append(
          [
            name,
            f"`{h}`",
            estimate(e, True),
            number(e["sd_runs"]),
            p,
            str(e["runs"]),
          ]
        )
  header = ["method", "metric", "difference [95%]", "sd of runs"]
  return Table([*header, "sign-flip p", "pairs"], rows)


def comparison(found: Mapping[str, Any]) -> list[Block]:
  """The report of `python -m jax_cl.compare`."""
  split = found["split"]
  blocks: list[Block] = [Heading(found["title"], 1)]
  blocks += protocol(found.get("protocol"))
  blocks += [
    Text(
      f"Reward on {split}; {len(found['orders'])} orders x "
      f"{len(found['seeds'])} seeds. Intervals (95%) resample tasks within "
      "each domain and runs, paired on task ids and on seed x order."
    ),
    Image("methods.png", "average performance and forgetting by method"),
    methods(found),
    *([Text(TOLD)] if found.get("told") else []),
    Heading("By domain, at the end"),
    method_domains(found),
    Heading(f"Against {found['baseline']}"),
    differences(found),
    Text(
      "A difference is one only if its interval leaves out what the A/A "
      "repeat shows: the same method run again with other seeds."
      if found["aa"]
      else "No A/A repeat was run (`--repeat_aa`), so the noise between two "
      "runs of one method is not shown."
    ),
    Heading("After each stage"),
    Image("matrices.png", "reward after each stage, by method"),
    Heading("Learning curves"),
    Image("curves.png", "average reward over the stream, by method"),
    Heading("On tasks that require a write"),
    methods(found, "write_only"),
  ]
  extra = {k: v for k, v in found["other_streams"].items() if v}
  if extra:
    blocks += [
      Heading("Against other streams"),
      Table(
        ["method", *(f"`{h}`" for h in extra)],
        [
          [name, *(estimate(extra[h].get(name), True) for h in extra)]
          for name in found["methods"]
        ],
      ),
    ]
  if found["failures"]:
    blocks += [
      Heading("Runs that failed"),
      Table(
        ["run", "error"], [[f["run"], f["error"]] for f in found["failures"]]
      ),
    ]
  rows = [
    [
      name,
      r["order"],
      str(r["seed"]),
      *(number(r["metrics"][h]) for h in HEADLINE),
    ]
    for name, m in found["methods"].items()
    for r in m["runs"]
  ]
  blocks += [
    Heading("Every run"),
    Table(["method", "order", "seed", *(f"`{h}`" for h in HEADLINE)], rows),
    Heading("Again"),
    Code(found["command"]),
  ]
  return blocks
