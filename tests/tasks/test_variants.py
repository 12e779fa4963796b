"""What a thing shall be like is read off words, against its variants."""

import pytest

from jax_cl.tasks.entities import Entity
from jax_cl.tasks.language import variants


def thing(type, value, price=10.0, free=True, **options):
  fields = {k.replace("_", " "): v for k, v in options.items()}
  fields |= {"price": str(price), "available": str(free)}
  return Entity(type, value, fields, {"product"}, 0, "tool")


OLD = thing("item", "1", size="M", color="blue", waterproof="no")
NEW = [
  thing("variant", "2", 12.0, size="M", color="red", waterproof="no"),
  thing("variant", "3", 14.0, size="L", color="blue", waterproof="no"),
  thing("variant", "4", 16.0, size="XL", color="blue", waterproof="no"),
  thing("variant", "5", 18.0, size="M", color="blue", waterproof="yes"),
  thing("variant", "6", 1.0, False, size="S", color="green", waterproof="yes"),
  thing("variant", "7", 5.0, size="S", color="gray", waterproof="yes"),
]


@pytest.mark.parametrize(
  "said, want",
  [
    ("a red one", "2"), ("one size larger", "3"), ("the largest one", "4"),
    ("it should be waterproof", "5"), ("the cheapest", "7"),
    ("it is too small, the color stays", "3"), ("a grey one", "7"),
    ("red instead of blue", "2"), ("size XL", "4"),
    ("from {'size': 'M', 'color': 'blue'} to {'size': 'XL'}", "4"),
  ],
)  # fmt: skip
def test_the_variant_that_answers(said, want):
  scores = variants.variant_scores(NEW, OLD, said)
  assert NEW[scores.index(max(scores))].value == want
  assert scores[4] == 0.0  # it is not available


@pytest.mark.parametrize(
  "said, gone",
  [
    ("a green one", True), ("a red one", False),
    ("a red one that is waterproof", True), ("any other one", False),
    ("a gray one, same size", True),
  ],
)  # fmt: skip
def test_sold_out_is_what_no_variant_on_offer_meets(said, gone):
  assert variants.sold_out(NEW, OLD, said) is gone
