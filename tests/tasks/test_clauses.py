"""Sentences fall into clauses with verbs and conditions."""

import pytest

from jax_cl.tasks.language import clauses


def heard(*sentences):
  return clauses.clauses(list(sentences))


def fates(text):
  return [(v.fate, v.verb) for v in clauses.verbs_of(clauses.plain(text))]


@pytest.mark.parametrize(
  "said, want",
  [
    ("Send the lamp back.", [("remove", "return")]),
    ("I no longer need the mug.", [("remove", "")]),
    ("Swap it, then cancel the order.",
     [("replace", "exchange"), ("remove", "cancel")]),
    ("Do not return the lamp.", [("keep", "")]),
    ("the tracking number of my cancelled order", [("look", "")]),
  ],
)  # fmt: skip
def test_verbs_say_what_becomes_of_things(said, want):
  assert fates(said) == want


@pytest.mark.parametrize(
  "said",
  [
    "If the lamp is sold out, return the mug.",
    "Return the mug if the lamp is sold out.",
    "Return the mug, but only if the lamp is sold out.",
  ],
)
def test_a_condition_is_told_from_what_it_governs(said):
  (clause,) = heard(said)
  assert clause.text.startswith("return the mug")
  assert clause.condition == "the lamp is sold out" and clause.holds


def test_otherwise_is_the_last_condition_turned_round():
  first, second = heard("If it is available, exchange it. Otherwise return it.")
  assert (first.condition, first.holds) == ("it is available", True)
  assert (second.condition, second.holds) == ("it is available", False)


def test_a_sentence_is_cut_where_a_new_request_begins():
  said = heard("Return the lamp and the mug, and please cancel the boots.")
  assert [c.text for c in said] == [
    "return the lamp and the mug", "please cancel the boots",
  ]  # fmt: skip
