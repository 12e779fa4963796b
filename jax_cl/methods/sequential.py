"""Plain sequential training: fine-tune on each stage, do nothing else.

The baseline that every other method must equal at strength 0.
"""

from __future__ import annotations

from jax_cl.methods.base import Method

OFF = {}  # it is its own baseline


def make() -> Method:
  return Method()
