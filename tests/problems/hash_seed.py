"""Prints a digest of the demonstrations of the domains that are named."""

import hashlib
import sys

import jax
import numpy as np

from configs import smoke
from jax_cl import build


def main() -> None:
  config = smoke.get_config()
  config.stream.domains = tuple(sys.argv[1:])
  config.stream.max_tasks_per_domain = None
  config.stream.references = False
  problem = build.problem(config)
  digest = hashlib.sha256()
  for stage in range(len(problem.stages)):
    for x in jax.tree.leaves(problem.demos(stage)):
      digest.update(np.ascontiguousarray(x).tobytes())
  print(digest.hexdigest())


if __name__ == "__main__":
  main()
