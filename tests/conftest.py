"""Eight CPU devices, no silent broadcasting over ranks, one tiny stream."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def tiny():
  """A config of three stages of six steps; ready in a second."""
  import small

  return small.config()
