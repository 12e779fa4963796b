import pytest

from jax_cl import names


def test_an_unknown_name_lists_the_known_and_the_nearest():
  with pytest.raises(ValueError) as e:
    names.check("strategy", "radnom", {"recent": 1, "random": 2})
  assert str(e.value) == (
    "unknown strategy 'radnom' (did you mean 'random'?); "
    "known: ['random', 'recent']"
  )


def test_nothing_near_is_no_suggestion():
  assert names.unknown("user", "xyz", ("scripted",)) == (
    "unknown user 'xyz'; known: ['scripted']"
  )


def test_a_known_name_passes():
  names.check("user", "scripted", ("scripted",))


def test_several_are_a_list_or_one_string():
  for given in ("a,c", ["a", "c"], ("a", "c")):
    assert names.several("shape", given, "abc") == ["a", "c"]
  with pytest.raises(ValueError, match="unknown shape 'd'"):
    names.several("shape", "a,d", "abc")
