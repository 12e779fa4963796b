"""Devices: a mesh of three axes, and which dimension of what lies along which.

  data    rows of the batch are split, weights are copied
  fsdp    rows and weights are split; weights are gathered where they are used
  tensor  heads and feed-forward channels are split

What the field writes as `pmap` is `jit` over `NamedSharding` here: the same
program, compiled once, with the communication that the shardings imply. Where a
leaf goes is told by its path (`RULES`), so optimiser moments, anchors and
Fisher information, whose paths end as their parameter's do, lie where it lies.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jax_cl import tree

PyTree = Any
Rule = tuple[str, tuple[str | None, ...]]
AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # over which rows are split

# (regex of the end of a path, mesh axis of each of the last dimensions); the
# first that matches counts, and what no rule names is copied. Kernels are
# [layers, in, out].
RULES: tuple[Rule, ...] = (
  (r"layers/(attn/[qkv]|mlp/(gate|up))/kernel", (None, "fsdp", "tensor")),
  (r"layers/(attn/o|mlp/down)/kernel", (None, "tensor", "fsdp")),
  (r"layers/(attn/[qkv]|mlp/(gate|up))/bias", (None, "tensor")),
  (r"layers/.*/lora_a", (None, "fsdp", None)),
  (r"layers/.*/lora_b", (None, None, "tensor")),
  # The importance of their product (`methods._adapters`), entry by entry.
  (r"layers/.*/lora_ab", (None, "fsdp", "tensor")),
  (r"embed/embedding", ("tensor", "fsdp")),
  (r"head/kernel", ("fsdp", "tensor")),
)


class Layout(NamedTuple):
  """Where things live; all None leaves it to JAX (one device)."""

  rows: NamedSharding | None = None  # leaves that lead with B
  replicated: NamedSharding | None = None
  rules: tuple[Rule, ...] = ()  # for state and frozen weights


def layout(
  devices: int, fsdp: int = 1, tensor: int = 1, rules: tuple[Rule, ...] = RULES
) -> Layout:
  """The first `devices` devices as data x fsdp x tensor; 0: all there are."""
  there = jax.device_count()
  devices = devices or there
  if devices > there:
    raise ValueError(
      f"train.devices is {devices}, but there are {there} "
      f"({jax.default_backend()}): set config.train.devices to {there} or less"
    )
  if devices % (fsdp * tensor):
    raise ValueError(
      f"{devices} devices cannot be fsdp {fsdp} x tensor {tensor}: their "
      "product must divide the number of devices"
    )
  if not alone() and devices != there:
    raise ValueError(
      f"train.devices is {devices}, but {jax.process_count()} processes have "
      f"{there}: all take part; set config.train.devices to 0"
    )
  if devices == 1:
    return Layout()
  shape = (devices // (fsdp * tensor), fsdp, tensor)
  grid = np.array(jax.devices()[:devices]).reshape(shape)
  # Explicit axes, the default, are refused by flax's Embed.
  mesh = Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
  return Layout(
    NamedSharding(mesh, PartitionSpec(ROWS)),
    NamedSharding(mesh, PartitionSpec()),
    rules,
  )


def stacked(rows: NamedSharding | None) -> NamedSharding | None:
  """Of several batches on a leading axis."""
  if rows is None:
    return None
  return NamedSharding(rows.mesh, PartitionSpec(None, *rows.spec))


def shardings(where: Layout, of: PyTree) -> PyTree:
  """A NamedSharding for each leaf (array or ShapeDtypeStruct) of a tree."""
  assert where.replicated is not None
  mesh = where.replicated.mesh
  one = lambda path, x: NamedSharding(mesh, _spec(path, x.shape, where, mesh))
  return tree.map_with_path(one, of)


def place(of: PyTree, sharding: NamedSharding | None) -> PyTree:
  """Puts a tree there, or leaves it where it is."""
  return of if sharding is None else jax.device_put(of, sharding)


def place_by_rules(of: PyTree, where: Layout) -> PyTree:
  """Puts each leaf where its path says; on the one device if there is one."""
  if where.replicated is None:
    return jax.device_put(of)
  return jax.tree.map(jax.device_put, of, shardings(where, of))


def local(of: PyTree) -> PyTree:
  """Each leaf whole, on this process's first device; all processes call it."""
  if not all(x.is_fully_addressable for x in jax.tree.leaves(of)):
    everywhere = lambda x: NamedSharding(x.sharding.mesh, PartitionSpec())
    to = jax.tree.map(everywhere, of)
    of = jax.jit(lambda x: x, out_shardings=to)(of)
    of = jax.tree.map(lambda x: x.addressable_data(0), of)
  return jax.device_put(of, jax.local_devices()[0])


def describe(of: PyTree, where: Layout) -> PyTree:
  """Shapes and dtypes alone, with the sharding that each leaf's path says."""
  if where.replicated is None:
    return of
  one = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  return jax.tree.map(one, of, shardings(where, of))


def constrain(of: PyTree, where: Layout) -> PyTree:
  """The same inside `jit`: names where results lie.

  Left to the compiler, a second step's inputs could be split in another way
  than the first one's, and compile again.
  """
  if where.replicated is None:
    return of
  constrain_one = jax.lax.with_sharding_constraint
  return jax.tree.map(constrain_one, of, shardings(where, of))


@contextlib.contextmanager
def inside(where: Layout) -> Iterator[None]:
  """While a function is traced: `rows` knows the layout."""
  if where.replicated is None:
    yield
    return
  with jax.sharding.use_abstract_mesh(where.replicated.mesh.abstract_mesh):
    yield


def rows(x: jax.Array) -> jax.Array:
  """x, split over devices by its leading axis, if the layout has any.

  Weights that are split over rows' devices would otherwise pull activations
  along: a layer's input would be split by width and copied for each row.
  """
  mesh = jax.sharding.get_abstract_mesh()
  parts = math.prod(mesh.shape.get(axis, 1) for axis in ROWS)
  if parts == 1 or x.shape[0] % parts:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(ROWS))


# ------------------------------------------------------------------ many hosts


def join(coordinator: str, processes: int | None, process: int | None) -> None:
  """Makes this process one of many, before JAX has looked for devices.

  All run the same program in step. What happens on the host alone is done in
  shares (`share`) or by the first of them (`first`).
  """
  if coordinator == "auto":
    jax.distributed.initialize()
  elif processes is None or process is None:
    raise ValueError(
      f"--coordinator={coordinator} needs --processes=N and --process=I; "
      "where the cluster's scheduler tells them: --coordinator=auto"
    )
  else:
    jax.distributed.initialize(coordinator, processes, process)


def first() -> bool:
  """Whether this process writes files and talks; a process alone is."""
  return jax.process_index() == 0


def alone() -> bool:
  return jax.process_count() == 1


def wait(name: str) -> None:
  """Until all processes are at the place of this name."""
  if not alone():
    multihost_utils.sync_global_devices(name)


def share(f: Callable[[list], Sequence], jobs: Sequence) -> list:
  """f(jobs): each process does every n-th job, and all get all results."""
  n, i = jax.process_count(), jax.process_index()
  if n == 1:
    return list(f(list(jobs)))
  out: list = [None] * len(jobs)
  for k, part in enumerate(_gather(f(list(jobs)[i::n]))):
    out[k::n] = part
  return out


def _gather(of: Any) -> list:
  """Every process's host record, in their order."""
  data = np.frombuffer(pickle.dumps(of), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(data.size)).ravel()
  row = np.zeros(sizes.max(), np.uint8)
  row[: data.size] = data
  rows = multihost_utils.process_allgather(row).reshape(len(sizes), -1)
  return [pickle.loads(r[:n].tobytes()) for r, n in zip(rows, sizes)]


# ---------------------------------------------------------------------- inside


def _spec(path: str, shape, where: Layout, mesh: Any) -> PartitionSpec:
  for regex, axes in where.rules:
    if len(shape) >= len(axes) and re.search(f"(^|/){regex}$", path):
      # Dimensions in front are a method's own: one tree a stage.
      spec = (None,) * (len(shape) - len(axes)) + axes
      return PartitionSpec(*map(_fits(mesh), spec, shape))
  return PartitionSpec()


def _fits(mesh: Any):
  """An axis where it divides the dimension; else the dimension is whole."""
  return lambda axis, n: None if axis and n % mesh.shape[axis] else axis
