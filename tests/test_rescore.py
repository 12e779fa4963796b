import copy
import gzip
import json
import pathlib

import pytest

from jax_cl import rescore
from jax_cl.bench.env import play
from jax_cl.tasks import export, recorded, reference, stream

FILE = (
  pathlib.Path(__file__).parent / "data/tau2_airline_gpt5_trajectories.json.gz"
)


@pytest.fixture(scope="module")
def data():
  with gzip.open(FILE, "rt") as f:
    return json.load(f)


def run(path, capsys, *flags):
  code = rescore.main([str(path), *flags])
  out, err = capsys.readouterr()
  return code, out.splitlines(), err


def save(path, data):
  path.write_text(json.dumps(data))
  return path


def test_gpt5s_recorded_rewards_come_out_again(capsys):
  code, out, _ = run(FILE, capsys)
  assert code == 0
  assert out[-1] == "43 simulations, 0 mismatches"


def corrupted(data, change):
  """A copy whose first rewarded simulation with a write is changed."""
  data = copy.deepcopy(data)
  writes = ("book_", "cancel_", "update_", "send_")
  for s in data["simulations"]:
    for i, m in enumerate(s["messages"]):
      for call in m.get("tool_calls") or ():
        answer = s["messages"][i + 1]
        if (
          s["reward"] == 1
          and call["name"].startswith(writes)
          and not answer.get("error")
        ):
          change(call, answer, s)
          return data
  raise AssertionError("no such simulation")


def test_a_changed_call_changes_the_verdict(data, tmp_path, capsys):
  def change(call, answer, s):
    call["name"], call["arguments"] = "list_all_airports", {}

  path = save(tmp_path / "changed.json", corrupted(data, change))
  before = [recorded.judge(r).verdict for r in recorded.read(FILE)]
  after = [recorded.judge(r).verdict for r in recorded.read(path)]
  (place,) = (i for i in range(43) if before[i] != after[i])
  assert (before[place].reward, after[place].reward) == (1, 0)
  assert (before[place].parts["DB"], after[place].parts["DB"]) == (1, 0)
  code, out, _ = run(path, capsys)
  assert code == 1
  assert out[-1] == "43 simulations, 1 mismatches"
  assert f"simulation {place} " in out[0] and "recorded reward 1.0" in out[0]


@pytest.mark.parametrize(
  "change,said",
  [
    (lambda c, a, s: s.update(reward=0.0), "recorded reward 0.0, replayed 1.0"),
    (lambda c, a, s: a.update(content='{"a": 1}'), "is not what the tool"),
    (
      lambda c, a, s: s.update(termination_reason="max_steps"),
      "recorded reward 1.0, replayed 0.0",
    ),
  ],
)
def test_other_corruptions(data, change, said, tmp_path, capsys):
  path = save(tmp_path / "x.json", corrupted(data, change))
  code, out, _ = run(path, capsys)
  assert code == 1 and said in out[0]


@pytest.mark.parametrize(
  "content,words",
  [
    (None, "no such file"),
    ("{", "does not parse as JSON"),
    ("[]", "no 'simulations'"),
    ('{"simulations": [{"task_id": "0"}]}', "domain"),
    ('{"simulations": [{"domain": "airline"}]}', "task_id"),
    (
      '{"simulations": [{"domain": "airlin", "task_id": "0"}]}',
      "did you mean 'airline'",
    ),
    (
      '{"simulations": [{"domain": "airline", "task_id": "none"}]}',
      "no task 'none'",
    ),
  ],
)
def test_bad_files_are_answered_in_a_line(content, words, tmp_path, capsys):
  path = tmp_path / "bad.json"
  if content is not None:
    path.write_text(content)
  code, out, err = run(path, capsys)
  assert code == 2 and not out
  assert err.startswith("error: ") and words in err and err.count("\n") == 1


# --------------------------------------------------------------------- export


@pytest.mark.parametrize(
  "name,solo",
  [
    ("airline", False),
    ("retail", False),
    ("telecom", False),
    ("telecom", True),
  ],
)
def test_ours_are_tau2s_results(name, solo, tmp_path, capsys):
  from tau2.data_model.simulation import Results

  path = tmp_path / "ours.json"
  specs = stream.load(name, solo=solo).splits["val"][:3]
  episodes = [
    play(spec, reference.make(policy)(), seed=1).episode()
    for spec in specs
    for policy in ("oracle", "do_nothing")
  ]
  assert export.save(episodes, path, seed=1) == 6
  results = Results.load(path)
  assert [s.reward_info.reward for s in results.simulations] == [
    e.reward for e in episodes
  ]
  assert [s.trial for s in results.simulations] == [0, 1] * 3
  assert len(results.tasks) == 3
  for run_, e in zip(results.simulations, episodes, strict=True):
    times = [m.timestamp for m in run_.messages]
    assert times == sorted(times) and len(times) == len(e.turns)
  code, out, _ = run(path, capsys)
  assert (code, out[-1]) == (0, "6 simulations, 0 mismatches")
  assert [r.solo for r in recorded.read(path)] == [solo] * 6


def test_tau2_view_opens_ours(tmp_path, monkeypatch):
  from tau2.scripts import view_simulations as view

  path = tmp_path / "ours.json"
  specs = stream.load("airline").splits["val"][:2]
  make = reference.make("oracle")
  export.save([play(s, make()).episode() for s in specs], path)
  # Choose a file, see its metrics, see a simulation without a note, leave.
  answers = iter(["1", "2", "3", "", "5"])
  numbers = iter([1, 2])
  shown = []
  monkeypatch.setattr(view.Prompt, "ask", lambda *a, **k: next(answers))
  monkeypatch.setattr(view.IntPrompt, "ask", lambda *a, **k: next(numbers))
  monkeypatch.setattr(
    view.ConsoleDisplay, "console", console(shown), raising=False
  )
  view.main(sim_file=str(path))
  text = "\n".join(shown)
  assert "Loaded 2 simulations" in text and "Error" not in text
  assert next(answers, None) is None


def console(shown):
  """A rich console that writes into a list."""
  import io

  from rich.console import Console

  class Listed(io.StringIO):
    def write(self, text):
      shown.append(text)
      return len(text)

  return Console(file=Listed(), width=200)


def test_a_file_holds_one_domain(tmp_path):
  specs = [stream.load(n).splits["val"][0] for n in ("mock", "airline")]
  make = reference.make("do_nothing")
  episodes = [play(s, make()).episode() for s in specs]
  with pytest.raises(ValueError, match="one domain"):
    export.save(episodes, tmp_path / "x.json")
  with pytest.raises(ValueError, match="no episodes"):
    export.save([], tmp_path / "x.json")
