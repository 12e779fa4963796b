import jax
import numpy as np
import pytest
import small

from jax_cl import build, evaluate, train
from jax_cl.methods.base import Method
from jax_cl.types import Objective, Stage


def made():
  config = small.config()
  what = build.problem(config)
  return config, what


def test_no_more_rows_are_kept_than_a_batch_has():
  config = small.config()
  config.eval.kl_rows = 17
  with pytest.raises(ValueError, match=r"kl_rows is 17; .*batch_size \(16\)"):
    build.check(config)


def test_a_method_that_rolls_out_is_refused_where_nothing_is_rolled_out():
  _, what = made()
  with pytest.raises(ValueError, match="set config.stream.pg_steps to 1"):
    build.check_needs(what, Method(needs=frozenset({"rollouts"})))
  config = small.config()
  config.stream.pg_steps = 2
  some = build.problem(config)
  build.check_needs(some, Method(needs=frozenset({"rollouts"})))


def test_a_method_that_reads_outputs_is_refused_where_there_are_none():
  _, what = made()
  build.check_needs(what, Method(needs=frozenset({"outputs"})))
  mute = Objective(*[None] * len(Objective._fields))
  what.agent = what.agent._replace(objective=lambda frozen: mute)
  with pytest.raises(ValueError, match="has no `out`"):
    build.check_needs(what, Method(needs=frozenset({"outputs"})))


def test_an_unknown_need_names_the_known():
  _, what = made()
  with pytest.raises(ValueError, match=r"\['memry'\]; known: \['memory'"):
    build.check_needs(what, Method(needs=frozenset({"memry"})))


def test_bytes_are_told_before_anything_compiles(monkeypatch, tmp_path, capsys):
  """A run that fails at its first compile has said what it needs."""

  def refuse(*args, **kwargs):
    raise FloatingPointError("no compile here")

  config = small.config()
  config.cl.name = "packnet"
  monkeypatch.setattr(train, "_Run", refuse)
  with pytest.raises(FloatingPointError):
    train.run(config.lock(), tmp_path / "run")
  said = capsys.readouterr().out
  assert "packnet needs stage_at_test; state: params 0.00 MB, cl" in said
  assert "Told the stage at test time" in said


def test_the_stage_that_is_told():
  one = lambda *domains: Stage("+".join(domains), (), 1, domains)
  stages = [one("a"), one("b"), one("a"), one("c")]
  told = lambda domain, k: evaluate.told_stage(stages, domain, k)
  assert told("a", 0) == told("a", 1) == 0 and told("a", 3) == 2
  assert told("b", 3) == 1
  assert told("c", 1) == 1  # not seen yet: today's
  assert told("a", -1) == 0


def test_a_told_method_acts_on_each_domain_with_its_own_stage():
  config, what = made()
  config.cl.name = "lora"
  method = build.method(config, len(what.domains), build.trains(what))
  steps = build.steps(config, what, method)
  state, _ = steps.init(jax.random.key(0))
  state = steps.start(state, 1)
  bumped = jax.tree.map(lambda x: x + 1, state.params.delta)
  state = state._replace(params=state.params._replace(delta=bumped))
  view = evaluate.views(what, method, steps, state, 1)
  first, second = (view(d)["layer0"]["kernel"] for d in what.domains[:2])
  np.testing.assert_array_equal(first, state.params.base["layer0"]["kernel"])
  assert np.abs(second - first).min() > 0
