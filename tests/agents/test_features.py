"""Features of an episode: shapes, what they may see, what tells texts apart."""

import numpy as np
import pytest

from jax_cl.agents import embed, features
from jax_cl.tasks import actions, demos, stream
from jax_cl.types import Turn


@pytest.fixture(scope="module")
def made():
  domain = stream.load("retail")
  space = actions.ActSpace([domain], {"retail": demos.vocabulary(domain)})
  reference = actions.sentences(domain.policy)
  return features.Featurizer(embed.make("hashed"), space, reference), space


def _state(space, *turns):
  state = actions.State(space)
  state.observe(turns)
  return state


def test_a_row_has_the_shapes_it_promises(made):
  featurizer, space = made
  state = _state(space, Turn("user", "I am Mei Kovacs, zip 28236."))
  row = featurizer.obs(state, state.choice())
  for name, (shape, dtype) in featurizer.spec.items():
    assert row[name].shape == shape and row[name].dtype == dtype, name
  assert np.isfinite(row["phi"]).all() and row["phi"][-1] == 1


def test_the_mask_is_that_of_the_choice(made):
  featurizer, space = made
  state = _state(space, Turn("user", "Hello"))
  choice = state.choice()
  mask = featurizer.obs(state, choice)["mask"]
  np.testing.assert_array_equal(mask[: len(choice.mask)], choice.mask)
  assert not mask[len(choice.mask) :].any()
  # nobody was named, so nobody can be looked up
  assert not mask[space.index["get_user_details"]]


def test_equal_dialogues_have_equal_features(made):
  featurizer, space = made
  say = Turn("user", "I want to return the lamp of #W0000001.")
  a, b = (_state(space, say) for _ in range(2))
  x, y = (featurizer.obs(s, s.choice()) for s in (a, b))
  for name in x:
    np.testing.assert_array_equal(x[name], y[name])


def test_fourier_features_tell_neighbours_apart(made):
  featurizer, _ = made
  on, off, other = featurizer.vectors(
    ["Airplane Mode: ON", "Airplane Mode: OFF", "a grill of stainless steel"]
  )
  cos = lambda a, b: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
  linear, waves = slice(0, featurizer.linear), slice(featurizer.linear, None)
  assert cos(on[linear], off[linear]) > cos(on[linear], other[linear])
  assert cos(on[waves], off[waves]) < cos(on[linear], off[linear])


def test_a_named_order_stands_out_among_candidates(made):
  featurizer, space = made
  state = _state(
    space,
    Turn("user", "It is about #W0000002."),
    Turn("user", "I also have #W0000001 somewhere."),
  )
  i = space.index["get_order_details"]
  assert state.choose(i) is None  # two orders: a pointer must choose
  choice = state.choice()
  row = featurizer.obs(state, choice)
  assert row["slot"] == space.slot_index["get_order_details", "order_id"]
  n = len(choice.options)
  assert n == 2 and row["mask"].sum() == 2
  assert (row["cand"][:n, 6] == 1).all()  # both are literally in the text
  np.testing.assert_array_equal(row["cand"][:n, 7], [0, 1])  # one just now
