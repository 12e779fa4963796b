import jax
import jax.numpy as jnp
import numpy as np
import pytest
import softmax

from jax_cl.methods import lwf

KEY = jax.random.key(0)
BATCH = softmax.rows(
  [[1.0, 0.0, 2.0], [0.0, 1.0, 1.0], [5.0, 5.0, 5.0]], weight=[1.0, 1.0, 0.0]
)


def pull(method, teacher, p, stage):
  obj, _ = softmax.linear()
  cl = {"teacher": teacher}
  g, aux = method.grads(obj, cl, p, BATCH, None, jnp.int32(stage), KEY)
  return g["w"] - aux["task_grads"]["w"], aux["penalty"]


def test_zero_at_the_teacher_and_in_stage_0():
  _, p = softmax.linear()
  other = {"w": p["w"] * 0.5}
  for teacher, stage in ((p, 1), (other, 0)):
    slope, value = pull(lwf.make(), teacher, p, stage)
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
  assert pull(lwf.make(), other, p, 1)[1] > 0.01


def test_the_gradient_is_phi_times_the_difference_of_softened_policies():
  _, p = softmax.linear()
  teacher, T, lam = {"w": p["w"][:, ::-1]}, 2.0, 3.0
  x = BATCH.obs["x"][:2]  # the third has no weight
  soft = lambda w: jax.nn.softmax(x @ w / T)
  want = lam * T * x.T @ (soft(p["w"]) - soft(teacher["w"])) / 2
  slope, _ = pull(lwf.make(lam=lam, temperature=T), teacher, p, 1)
  np.testing.assert_allclose(slope, want, rtol=1e-4, atol=1e-6)


def test_the_teacher_is_the_policy_at_the_start_of_the_stage():
  _, p = softmax.linear()
  method = lwf.make()
  cl, same = method.start(method.init(p, 2, KEY), p, 1, KEY)
  assert same is p
  np.testing.assert_array_equal(cl["teacher"]["w"], p["w"])


def test_wrong_values():
  with pytest.raises(ValueError, match="temperature 0"):
    lwf.make(temperature=0)
