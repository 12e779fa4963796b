"""What GRPO itself forgets: telecom's families of issues, one after another.

  P=runs/families_sft
  python -m jax_cl.main --config=configs/grpo_families.py:sft --workdir=$P
  python -m jax_cl.evaluate --workdir=$P --export=$P/hub
  python -m jax_cl.main --config=configs/grpo_families.py \\
    --config.agent.args.model=$P/hub

Where SFT opens every stage, as in `grpo_tiny`, it erases what came before, and
what GRPO would forget cannot be seen behind it. Here SFT comes once, on all of
telecom; then policy gradient alone learns one family of issues after another.
Nothing that acts is told which family a task is of.

That the start knows all families is this config's point and a deviation from
`tau2_cl_v1`: no stage's demonstrations are its own. Start, stages and ends are
scored by four sampled trials a task.

Two CPU cores, 20 minutes in all beside other work. Measured on test (one seed,
results/grpo_families*): each stage teaches its family (mms .33 to .61, mobile
data .33 to .81, service .52 to .70, where transferring everybody earns .80),
and GRPO forgets: mms falls to .31 and mobile data to .44, `forgetting` .329
[.188, .481]. With --config.cl.name=replay .136 [.010, .290], with online_ewc at
its default strength .264 [.180, .336], for it learns less.
"""

from configs import grpo_tiny
from jax_cl import names


def get_config(what: str = "grpo"):
  """`what`: "sft", all of telecom by demonstrations; "grpo", the families."""
  names.check("part of grpo_families", what, ("sft", "grpo"))
  config = grpo_tiny.get_config()
  config.eval.trials = config.eval.val_trials = 4
  with config.ignore_type():
    config.stream.pg_steps = 0 if what == "sft" else 60  # of each domain
  if what == "sft":
    config.stream.domains = ("telecom",)
    config.stream.pool = "extended"  # of the full one 1% are service issues
    return config
  config.stream.domains = (
    "telecom:mms_issue", "telecom:mobile_data_issue", "telecom:service_issue",
  )  # fmt: skip
  config.stream.clone_steps = 0
  config.cl.args.replay.kind = "replay_env"  # no SFT, so it replays
  config.cl.args.replay.ratio = 0.5  # one task of two
  config.agent.args.model = "runs/families_sft/hub"
  config.agent.args.model_args = {}
  config.agent.args.form = "compact"
  config.cl.args.online_ewc.samples = 64
  return config
