"""`python -m jax_cl.reports --workdir=...` draws a run's report anew."""

import sys
from collections.abc import Sequence

from jax_cl import reports, shell


@shell.command
def main(argv: Sequence[str] | None = None) -> int:
  parser = shell.Parser(prog="python -m jax_cl.reports")
  parser.add_argument("--workdir", required=True)
  paths = reports.write(parser.parse_args(argv).workdir)
  print("\n".join(map(str, paths)))
  return 0


if __name__ == "__main__":
  sys.exit(main())
