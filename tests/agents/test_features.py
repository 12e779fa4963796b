"""Features of an episode: shapes, what they may see, what tells texts apart."""

import numpy as np
import pytest

from jax_cl.agents import chi, dialogue, embed, features, psi
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


def test_columns_have_places_of_their_own():
  assert sorted(psi.NAMES.values()) == list(range(psi.NUMERIC))
  assert sorted(chi.NAMES.values()) == list(range(len(chi.NAMES)))
  assert len(chi.NAMES) <= psi.WIDTH


def test_stop_is_described_by_what_was_picked(made):
  featurizer, space = made
  state = _state(space, Turn("user", "It is both: 1656367028, 4843487907."))
  for item in ("1656367028", "4843487907", "7195021808"):
    state.seen.add("item", item, 0, "tool", {"name": "Lamp"})
  state.act = space.acts[space.index["return_delivered_order_items"]]
  state.picks = {"order_id": [], "item_ids": [state.seen.of("item")[0]]}
  choice = state.choice()
  assert choice.options[-1] is actions.STOP and len(choice.options) == 3
  rows = featurizer.obs(state, choice)["cand"]
  column = lambda name: rows[:3, psi.NAMES[name]].tolist()
  assert column("stop") == [0, 0, 1]
  assert column("stop_second") == [0, 0, 1]  # one was picked
  assert column("spoken") == [1, 0, 0]
  assert column("rank") == [1, 0.5, 0]


def test_the_line_with_most_shared_words_is_the_one_about_it(made):
  _, space = made
  said = dialogue.said(
    _state(space, Turn("user", "A red lamp.\nMy blue lamp broke.\nA red bag."))
  )
  assert said.nearest_line({"red", "lamp"}) == {"red", "lamp"}
  assert said.nearest_line({"red"}) == {"red", "bag"}  # of equals, the latest
  assert said.nearest_line({"green"}) == set()
