"""`python -m jax_cl.reports --workdir=...` draws a run's report anew."""

import argparse

from jax_cl import reports

parser = argparse.ArgumentParser(prog="python -m jax_cl.reports")
parser.add_argument("--workdir", required=True)
try:
  paths = reports.write(parser.parse_args().workdir)
except ValueError as e:
  raise SystemExit(str(e)) from None
print("\n".join(map(str, paths)))
