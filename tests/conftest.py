"""Eight CPU devices, no silent broadcasting over ranks, one tiny stream.

XLA compiles at its lowest level: on tests' small shapes compiling takes most of
the time, and this takes a half of it. Runs of the commands are left as they are
for users, but for those that tests start.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_force_host_platform_device_count=8"
  + " --xla_backend_optimization_level=0"
)
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
  """(workdir, results) of one small run with replay; read it, or copy it."""
  import small

  from jax_cl import train

  workdir = tmp_path_factory.mktemp("finished") / "run"
  config = small.config()
  config.cl.name = "replay"
  return workdir, train.run(config.lock(), workdir)
