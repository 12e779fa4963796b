"""What the scorer reads: which layer, which pooling, or no LLM at all.

  python -m jax_cl.compare --config=configs/compare_features.py --seeds=3

The three domains together (joint training), half the updates of the quickstart
at twice its rate. Choose by val, the column `val` of each run's `results.json`.
"""

from ml_collections.config_dict import placeholder

from configs import quickstart

ARGS = {  # of the embedder `smollm2`
  "layer_8": {},  # the quickstart's: the mean over tokens
  "layer_4": {"layer": 4},
  "layer_16": {"layer": 16},
  "layer_8_last": {"pooling": "last"},
}


def get_config():
  config = quickstart.get_config()
  config.stream.curriculum = "joint"
  config.stream.clone_steps, config.optim.lr = 400, 0.02
  config.stream.pg_steps = 3
  config.stream.embedder_args = placeholder(dict)
  config.train.save_interval = 1000  # at the ends of stages
  config.variants = {"hashed": {"stream": {"embedder": "hashed"}}}
  for name, args in ARGS.items():
    config.variants[name] = {"stream": {"embedder_args": args}}
  return config
