"""Runs one experiment, or goes on with it.

  python -m jax_cl.main --config=configs/blobs.py [--config.cl.name=replay]
      [--config.cl.args.replay.ratio=.5] [--workdir=runs/mine]

Every key of the config can be set on the command line. The workdir is
runs/<name of the config file> unless given; the same command resumes. A config
with `variants` is a comparison of them: `jax_cl.compare`. On many hosts each
runs the command with --coordinator=HOST:PORT --processes=N --process=I (or
--coordinator=auto where the cluster tells), over one shared workdir.
Exit codes: 0 done, 2 a mistake in what was asked for (said in one line), 1 the
run failed, 130 interrupted (and saved).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jax_cl import commandline, shell

parse = commandline.parse


@shell.command
def main(argv: Sequence[str] | None = None) -> int:
  args = list(sys.argv if argv is None else ["main", *argv])
  if {"--help", "-h", "--helpfull"} & set(args):
    print(__doc__)
    return 0
  hosts, rest = _parser().parse_known_args(args[1:])
  args = [args[0], *rest]
  config, workdir = parse(args)
  if hosts.coordinator:
    from jax_cl import sharding

    sharding.join(hosts.coordinator, hosts.processes, hosts.process)
  if config.get("variants"):
    from jax_cl import compare

    return compare.main(args[1:])
  from jax_cl import train  # after the flags: a typo costs no import of jax

  train.run(config, workdir)
  return 0


def _parser() -> shell.Parser:
  parser = shell.Parser(prog="python -m jax_cl.main", allow_abbrev=False)
  parser.add_argument("--coordinator", help="HOST:PORT of process 0, or auto")
  parser.add_argument("--processes", type=int)
  parser.add_argument("--process", type=int)
  return parser


if __name__ == "__main__":
  sys.exit(main())
