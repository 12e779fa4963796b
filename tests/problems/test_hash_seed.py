"""What a run reads does not depend on the order in which Python walks a set."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow  # a minute on two cores
def test_demonstrations_do_not_depend_on_the_hash_seed():
  """Retail has items that lie in two orders of the same customer, and with
  these two seeds a set of both is walked in two orders."""
  command = [sys.executable, "-m", "tests.problems.hash_seed", "retail"]
  started = [
    subprocess.Popen(
      command,
      env={**os.environ, "PYTHONHASHSEED": seed},
      stdout=subprocess.PIPE,
      text=True,
    )
    for seed in ("0", "2")
  ]
  said = [p.communicate()[0].split() for p in started]
  assert [p.returncode for p in started] == [0, 0]
  assert len(said[0]) == 1 and said[0] == said[1]
