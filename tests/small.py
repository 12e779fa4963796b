"""The smallest stream on which every part of a run has something to do."""

from configs import blobs


def config():
  """Three permutations of four blobs; a stage is two epochs of three steps."""
  out = blobs.get_config()
  out.stream.epochs = 2
  out.stream.blobs = {
    "features": 6, "classes": 4, "train": 40, "val": 8, "test": 12,
  }  # fmt: skip
  out.agent.args.hidden = (8,)
  out.train.batch_size = 16
  out.train.save_interval = 2
  out.log_interval = 4
  out.use_progress_bar = False
  return out
