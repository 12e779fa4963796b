"""What a run would need, told without making one of its weights.

  python -m jax_cl.plan --config=configs/grpo_qwen2_5_3b.py --devices=4
      [--config.train.fsdp=2] [--out=FILE.json]

Lowers and compiles the run's steps for simulated devices, from shapes alone,
and prints where each weight lies and the bytes that a device holds. A model of
the hub is planned by its published sizes: no file is read, nothing is fetched.

What lives between steps follows from shapes and shardings, and holds on any
device. Temporaries are those of XLA's program for a CPU: another backend fuses
otherwise, and multiplies bfloat16 where a CPU makes float32 copies first. The
sampler's weights and caches lie on the first device alone.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from jax_cl import build, commandline, sharding, shell, tree
from jax_cl.policies import weights
from jax_cl.types import TrainState

PyTree = Any
GIB = 2**30


def plan(config: ConfigDict) -> dict[str, Any]:
  """Plain JSON; bytes are those of one device.

  mesh      {axis: devices}; {} on one device
  weights   {path: {shape, dtype, split, bytes, trained}}
  held      {part: bytes} between steps: params, opt, cl, buffer, frozen
  steps     {step: {arguments, temporaries}}: arguments are what is held and
            the batch; results take the place of the state they replace
  sampling  {part: bytes} beside what is held, on the first device: the
            policy as it acts, and the sampler's own copy and caches
  peak      the largest sum of them
  """
  config = _without_files(config)
  build.check(config)
  what = build.problem(config)
  how = build.method(config, len(what.domains), build.trains(what))
  build.check_needs(what, how)
  steps, where = build.steps(config, what, how), build.layout(config)
  state, frozen = steps.shapes()
  held = {**_parts(state), "frozen": _nbytes(frozen)}
  sampling = {}
  if sampler := getattr(what, "sampler_bytes", None):
    acting = jax.eval_shape(steps.view, state)
    sampling = {"acting": held["params"], **sampler(acting, frozen)}
  batch = build.empty_batch(what, config.train.batch_size)
  programs = {}
  for name, program in _programs(steps, how, state, frozen, batch, where.rows):
    programs[name] = _measured(program)
  sums = [sum(p.values()) for p in programs.values()]
  return {
    "mesh": dict(where.rows.mesh.shape) if where.rows else {},
    "rows": config.train.batch_size,
    "shape_of_a_row": list(batch.action.shape[1:]),
    "weights": _weights(state.params, frozen),
    "held": held,
    "steps": programs,
    "sampling": sampling,
    "peak": max(*sums, sum(held.values()) + sum(sampling.values())),
  }


def _without_files(config: ConfigDict) -> ConfigDict:
  """The config with a model that is not here replaced by its sizes."""
  config = config.copy_and_resolve_references()
  name = config.agent.args.get("model")
  if name and not weights.is_new(name) and not pathlib.Path(name).is_dir():
    config.agent.args.model = weights.NEW + name
  return config


def _programs(
  steps, how, state, frozen, batch, rows: NamedSharding | None
) -> Iterator[tuple[str, Any]]:
  """(name, lowered) of the steps that read a batch."""
  batch = _placed(batch, rows)
  yield "update", steps.update.lower(state, frozen, batch)
  if steps.remember:
    yield "remember", steps.remember.lower(state, frozen, batch)
  if how.rows:
    n = -(-how.rows // len(batch.weight))
    stack = lambda x: jax.ShapeDtypeStruct((n, *x.shape), x.dtype)
    every = jax.tree.map(stack, batch)
    every = _placed(every, sharding.stacked(rows))
    yield "end", steps.end.lower(state, frozen, every)


def _placed(of: PyTree, where: NamedSharding | None) -> PyTree:
  if where is None:
    return of
  one = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
  return jax.tree.map(one, of)


def _measured(lowered) -> dict[str, int]:
  found = lowered.compile().memory_analysis()
  new = found.output_size_in_bytes - found.alias_size_in_bytes
  return {
    "arguments": found.argument_size_in_bytes,
    "temporaries": found.temp_size_in_bytes + max(new, 0),
  }


def _parts(state: TrainState) -> dict[str, int]:
  names = ("params", "opt", "cl", "buffer")
  return {name: _nbytes(getattr(state, name)) for name in names}


def _nbytes(of: PyTree) -> int:
  """Bytes of a device's share of a tree."""
  return sum(map(_share, jax.tree.leaves(of)))


def _share(x: jax.ShapeDtypeStruct) -> int:
  shape = x.sharding.shard_shape(x.shape) if x.sharding else x.shape
  return jax.ShapeDtypeStruct(shape, x.dtype).size * x.dtype.itemsize


def _weights(params: PyTree, frozen: PyTree) -> dict[str, dict[str, Any]]:
  rest = frozen.get("rest", {}) if isinstance(frozen, Mapping) else {}
  out = {}
  for trained, part in ((True, params), (False, rest)):
    for path, x in zip(tree.paths(part), jax.tree.leaves(part)):
      spec, mesh = (), {}
      if x.sharding:
        spec, mesh = x.sharding.spec, x.sharding.mesh.shape
      axes = (a if mesh.get(a, 1) > 1 else None for a in spec)
      out[path] = {
        "shape": list(x.shape),
        "dtype": str(x.dtype),
        "split": [*axes, *[None] * (len(x.shape) - len(spec))],
        "bytes": _share(x),
        "trained": trained,
      }
  return dict(sorted(out.items()))


# ------------------------------------------------------------------ the command


def text(name: str, found: Mapping[str, Any]) -> str:
  """A plan as people read it."""
  mesh = " x ".join(f"{k} {n}" for k, n in found["mesh"].items())
  rows = " x ".join(map(str, found["shape_of_a_row"]))
  out = [
    f"{name}: {mesh or 'one device'}, {found['rows']} rows of {rows}",
    *_table(found["weights"]),
    "",
    "GiB a device",
    _line("between steps", found["held"]),
  ]
  out += [_line(f"in {k}", v) for k, v in found["steps"].items()]
  if found["sampling"]:
    held = {"between steps": sum(found["held"].values())}
    out.append(_line("while sampling (first)", held | found["sampling"]))
  return "\n".join([*out, f"{'most':<24}{found['peak'] / GIB:8.2f}"])


def _table(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
  head = f"{'weight':<28} {'shape':<19} {'dtype':<9} {'split over':<15}"
  yield f"{head} {'MiB':>6}"
  for path, x in rows.items():
    shape = " x ".join(map(str, x["shape"]))
    split = ", ".join(a or "-" for a in x["split"]) if any(x["split"]) else ""
    size = f"{x['bytes'] / 2**20:.1f}" + ("" if x["trained"] else " frozen")
    yield f"{path:<28} {shape:<19} {x['dtype']:<9} {split:<15} {size:>6}"


def _line(name: str, parts: Mapping[str, int]) -> str:
  told = " + ".join(f"{k} {v / GIB:.2f}" for k, v in parts.items() if v)
  return f"{name:<24}{sum(parts.values()) / GIB:8.2f} = {told}"


def simulate(devices: int) -> None:
  """So many CPU devices in this process; before JAX has looked for any."""
  flags = os.environ.get("XLA_FLAGS", "")
  count = f"--xla_force_host_platform_device_count={devices}"
  os.environ["XLA_FLAGS"] = f"{flags} {count}"
  jax.config.update("jax_platforms", "cpu")


@shell.command
def main(argv: Sequence[str] | None = None) -> int:
  parser = shell.Parser(
    prog="python -m jax_cl.plan",
    description=__doc__.split("\n")[0],
    allow_abbrev=False,
  )
  parser.add_argument("--devices", type=int, help="simulated ones")
  parser.add_argument("--out", help="a file for the plan as JSON")
  args, rest = parser.parse_known_args(argv)
  config, workdir = commandline.parse(["plan", *rest])
  if args.devices is not None:
    simulate(args.devices)
    config.train.devices = args.devices
  found = plan(config)
  print(text(pathlib.Path(workdir).name, found))
  if args.out:
    pathlib.Path(args.out).write_text(json.dumps(found, indent=1) + "\n")
  return 0


if __name__ == "__main__":
  sys.exit(main())
