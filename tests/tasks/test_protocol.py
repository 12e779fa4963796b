"""A score's settings: pinned hashes, and every departure named."""

import json

import pytest

from jax_cl.tasks import protocol, stream

ORDER = ("airline", "retail", "telecom")


def test_a_run_by_the_protocol_deviates_in_nothing():
  found = protocol.describe(ORDER)
  assert found["name"] == "tau2_cl_v1" and found["deviations"] == {}
  sizes = {
    d: [found["splits"][d][s]["tasks"] for s in ("train", "val", "test")]
    for d in ORDER
  }
  assert sizes == {
    "airline": [111, 6, 20],
    "retail": [202, 15, 40],
    "telecom": [179, 15, 40],
  }
  assert json.loads(json.dumps(found)) == found


def test_orders_are_a_latin_square():
  orders = protocol.TAU2_CL_V1.orders
  for places in zip(*orders, strict=True):
    assert sorted(places) == sorted(ORDER)
  assert all(sorted(order) == sorted(ORDER) for order in orders)


def test_each_departure_is_named_with_both_values():
  found = protocol.describe(
    ("retail", "airline"), trials=16, user="scripted", tools="domain"
  )
  assert set(found["deviations"]) == {"trials", "tools", "order"}
  assert found["deviations"]["trials"] == {"protocol": 1, "run": 16}
  assert found["deviations"]["order"]["run"] == ["retail", "airline"]


def test_another_pool_shows_in_the_splits():
  found = protocol.describe(ORDER, pool="full")
  assert {"pool", "splits of telecom"} <= set(found["deviations"])
  # Only train grows: what choices and scores are read from stays.
  mine = found["deviations"]["splits of telecom"]
  assert mine["run"]["test"] == mine["protocol"]["test"]
  assert mine["run"]["train"] != mine["protocol"]["train"]


def test_data_hash_reads_the_files(monkeypatch, tmp_path):
  class Files:
    folder = tmp_path

  monkeypatch.setattr(protocol.store, "store", lambda name: Files)
  (tmp_path / "tasks.json").write_text("[]")
  (tmp_path / "tasks_full.json").write_text("not read")
  hash_now = protocol.data_hash.__wrapped__
  first = hash_now("x")
  (tmp_path / "tasks_full.json").write_text("changed")
  assert hash_now("x") == first
  (tmp_path / "tasks.json").write_text("[ ]")
  assert hash_now("x") != first


def test_ids_hash_is_of_a_set():
  assert protocol.ids_hash(["a", "b"]) == protocol.ids_hash(["b", "a"])
  assert protocol.ids_hash(["a", "b"]) != protocol.ids_hash(["a"])


def test_unknown_names_are_answered_with_the_nearest():
  with pytest.raises(ValueError, match="did you mean 'tau2_cl_v1'"):
    protocol.get("tau2_cl_1")
  with pytest.raises(ValueError, match="unknown settings .'trails'"):
    protocol.describe(ORDER, trails=1)


def test_an_unofficial_domain_can_be_described():
  found = protocol.describe(("mock",))
  specs = stream.load("mock").splits["test"]
  assert found["splits"]["mock"]["test"]["tasks"] == len(specs)
  assert "order" in found["deviations"]


def test_solo_is_a_deviation():
  found = protocol.describe(("telecom",), solo=True)
  assert found["deviations"]["solo"] == {"protocol": False, "run": True}
