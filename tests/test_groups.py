"""Tests that share what one of them makes run in one worker (`xdist_group`)."""

import os

import pytest

pytestmark = pytest.mark.xdist_group("groups")


def test_a_group_is_part_of_the_name_that_tests_are_scheduled_by(request):
  if "PYTEST_XDIST_WORKER" not in os.environ:
    pytest.skip("one process has all tests")
  if not request.config.getoption("loadgroup"):
    pytest.skip("another distribution was asked for")
  assert request.node.nodeid.endswith("@groups")
