import copy
import dataclasses
import gzip
import json
import pathlib

import numpy as np
import pytest

from jax_cl import chat, logs, rescore
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


def test_a_runs_trajectories_are_read_and_exported(tmp_path, capsys):
  """trajectories.jsonl: what was said, bit for bit; tau2's files, a domain."""
  from tau2.data_model.simulation import Results

  specs = [stream.load(n).splits["val"][0] for n in ("mock", "airline")]
  specs.append(stream.load("telecom", solo=True).splits["val"][0])
  episodes = [play(s, reference.make("oracle")()).episode() for s in specs]
  row = chat.Row()
  row.say([5, 6])
  row.sample([7], [float(np.float32(-0.1))], [3])
  weights = {"version": 3, "checksum": "00c0ffee"}
  info = {"group": 1, "rows": (row,), "weights": weights}
  episodes[0] = dataclasses.replace(episodes[0], info=info)
  episodes.append(dataclasses.replace(episodes[0], failure="TimeoutError"))
  lines = [logs.trajectory_row(e, "train", 0, 4) for e in episodes]
  path = tmp_path / "trajectories.jsonl"
  path.write_text("".join(json.dumps(x) + "\n" for x in lines))

  (told,) = lines[0]["rows"]
  assert told["ids"] == [5, 6, 7] and told["mask"] == [0, 0, 1]
  assert np.float32(told["logprobs"][2]) == np.float32(-0.1)
  assert lines[0]["weights"] == weights and lines[0]["parts"]
  read = recorded.read(path)  # not the one whose user broke
  said = lambda ts: [dataclasses.replace(t, timestamp=None) for t in ts]
  assert [said(r.turns) for r in read] == [said(e.turns) for e in episodes[:3]]
  for r in read:  # no wall times, but an order
    times = [t.timestamp for t in r.turns]
    assert times == sorted(times) and times[0] == "2000-01-01T00:00:00"
  assert [r.solo for r in read] == [False, False, True]
  code, out, _ = run(path, capsys, f"--export={tmp_path / 'tau2'}")
  assert (code, out[-1]) == (0, "3 simulations, 0 mismatches")
  for spec in specs:
    name = f"{spec.domain}_solo.json" if spec.solo else f"{spec.domain}.json"
    (one,) = Results.load(tmp_path / "tau2" / name).simulations
    assert (one.task_id, one.reward_info.reward) == (spec.task_id, 1)


def test_held_out_tasks_are_dropped_from_what_is_imported():
  """17 of the 43 shared airline runs are of test tasks, and 5 of val."""
  airline = stream.load("airline")
  kept, counts = recorded.demonstrations(FILE, [airline])
  assert counts == {"test": 17, "val": 5, "unrewarded": 9, "kept": 12}
  assert {e.task for e in kept} <= set(airline.splits["train"])
  assert {e.reward for e in kept} == {1} and len(kept) == 12
  _, none = recorded.demonstrations(FILE, [stream.load("retail")])
  assert none == {"other": 43}


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
