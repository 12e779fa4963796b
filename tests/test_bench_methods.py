import pytest

from jax_cl.bench import methods


def small():
  return methods._scorer(
    size=20, phi=8, acts=5, slots=3, types=2, width=4, vector=4
  )


@pytest.fixture
def rows(monkeypatch):
  monkeypatch.setitem(methods.SHAPES, "scorer", small)
  given = "replay,replay_appended,packnet"
  return list(methods.run(given, "scorer", blocks=2))


def test_rows_are_by_method_with_bytes_of_state(rows):
  within, appended, packnet = rows
  assert [r["method"] for r in rows] == ["replay", "replay_appended", "packnet"]
  assert all(0 < r["low"] <= r["ratio"] <= r["high"] for r in rows)
  assert appended["rule_of_thumb"] == 1.2 and "rule_of_thumb" not in within
  # A memory of as many rows, whatever joins the batch.
  assert within["state_bytes"] == appended["state_bytes"]
  # w [8, 5], v [3, 4], t [2, 4], u [4]: an int16 each, and two int32.
  assert packnet["state_bytes"] == 2 * (40 + 12 + 8 + 4) + 8


def test_an_unknown_method_names_the_nearest():
  with pytest.raises(ValueError, match="did you mean 'replay_appended'"):
    next(methods.run("replay_append", "scorer"))
