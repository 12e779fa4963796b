"""What the project says of itself is so: commands, pins, map, configs."""

import importlib
import importlib.util
import pathlib
import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jax_cl import build

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PROSE = "\n".join(
  (ROOT / name).read_text()
  for name in (
    "README.md",
    "CONTRIBUTING.md",
    "docs/guide.md",
    "docs/launch.md",
  )
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONFIGS = sorted(
  p for p in (ROOT / "configs").glob("*.py") if not p.stem.startswith("_")
)


def tracked():
  """Files that git holds; outside a checkout, what lies in the folder."""
  found = subprocess.run(
    ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True
  )
  if found.returncode:
    pytest.skip("not a git checkout")
  paths = (ROOT / name for name in found.stdout.split("\0") if name)
  return [p for p in paths if p.is_file()]


def test_every_make_command_in_the_documents_is_a_target():
  named = set(re.findall(r"\bmake ([a-z][a-z-]+)(?=[\s`]|$)", PROSE, re.M))
  targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
  assert {"setup", "quickstart", "test", "results"} <= named
  assert named <= set(targets)


def test_every_module_named_as_a_command_can_be_run():
  named = set(re.findall(r"python -m (jax_cl[\w.]*)", PROSE))
  assert "jax_cl.main" in named
  for name in named:
    found = importlib.util.find_spec(name)
    assert found, f"there is no {name}"
    if found.submodule_search_locations:
      assert importlib.util.find_spec(f"{name}.__main__"), f"{name} cannot run"


def test_paths_in_the_documents_exist_unless_they_are_planned():
  for line in PROSE.splitlines():
    if line.rstrip().endswith("| planned |"):
      continue
    for path in re.findall(
      r"\b(?:jax_cl|configs|notebooks|tests|tools)/[\w/.]+\w", line
    ):
      if not re.search(r"/(x|test_x|NAME)\.py$", path):
        assert (ROOT / path).exists(), f"{path} in: {line}"


def test_config_keys_in_the_documents_are_keys_of_a_config():
  sections = "agent|stream|eval|train|optim|cl"
  pattern = rf"(?<![\w./])((?:{sections})\.[a-z_]\w*(?:\.[a-z_]\w*)*)(?![\w/(])"
  named = {k for k in re.findall(pattern, PROSE) if not k.endswith(".py")}
  assert {"eval.kl_rows", "agent.args.lora_rank"} <= named
  known = {"cl.args.x.strength"}  # CONTRIBUTING's example
  for method, options in build.method_options().items():
    known |= {f"cl.args.{method}.{k}" for k in options}
  for path in CONFIGS:
    config = importlib.import_module(f"configs.{path.stem}").get_config()
    known |= set(_keys(config.to_dict()))
  assert named <= known, sorted(named - known)


def _keys(config, before=""):
  for key, value in config.items():
    yield before + key
    if isinstance(value, dict):
      yield from _keys(value, f"{before}{key}.")


def test_every_folder_of_the_package_is_on_the_map():
  for folder in (ROOT / "jax_cl").iterdir():
    if (folder / "__init__.py").is_file():
      assert f"`jax_cl/{folder.name}/`" in README, folder.name


def test_what_is_called_planned_is_not_there():
  """Once it is, the README's table has to say so."""
  for line in README.splitlines():
    if line.rstrip().endswith("| planned |"):
      for path in re.findall(r"`((?:jax_cl|configs)/[\w/]+\.py)`", line):
        assert not (ROOT / path).exists(), f"{path} is no longer planned"


def pins():
  lines = (ROOT / "constraints.txt").read_text().splitlines()
  return [Requirement(x) for x in lines if x and not x.startswith("#")]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_direct_dependency_has_one_exact_pin_in_range(python):
  env = {"python_version": python}
  chosen = {}
  for pin in pins():
    if pin.marker is None or pin.marker.evaluate(env):
      name = canonicalize_name(pin.name)
      assert name not in chosen, f"{name} is pinned twice for {python}"
      (spec,) = pin.specifier
      assert spec.operator == "==", pin
      chosen[name] = spec.version
  extras = PROJECT["optional-dependencies"].values()
  for text in [*PROJECT["dependencies"], *(x for e in extras for x in e)]:
    wanted = Requirement(text)
    version = chosen[canonicalize_name(wanted.name)]
    assert wanted.specifier.contains(version, prereleases=True), text


def test_jax_and_flax_are_pinned_as_pairs_that_work():
  """jax >= 0.11.1 breaks flax <= 0.12.8."""
  env = {"python_version": "3.11"}
  pair = {
    p.name: str(p.specifier)
    for p in pins()
    if p.name in ("jax", "flax") and (not p.marker or p.marker.evaluate(env))
  }
  assert pair == {"jax": "==0.10.2", "flax": "==0.12.8"}


def test_no_machine_path_and_no_registry_host_in_a_tracked_file():
  hosts = r"pypi\.org|pythonhosted|download\.pytorch|npmjs|index-url"
  machine = r"(?<![\w.])/(?:root|home|Users|work|opt|mnt)/\w"
  pattern = re.compile(f"{hosts}|{machine}")
  found = []
  for path in tracked():
    if path == pathlib.Path(__file__).resolve():
      continue
    try:
      text = path.read_text()
    except UnicodeDecodeError:
      continue  # a picture, or compressed
    for n, line in enumerate(text.splitlines(), 1):
      if pattern.search(line):
        found.append(f"{path.relative_to(ROOT)}:{n}: {line.strip()[:80]}")
  assert not found, "\n".join(found)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_says_what_it_is(path):
  """Its head: the command; hardware, time and the number to expect."""
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  assert callable(module.get_config)
  if path.stem in ("common", "grpo"):
    return  # defaults, no experiment
  head = " ".join((module.__doc__ or "").split())
  assert f"--config=configs/{path.name}" in head
  assert re.search(r"\b(CPU|core|GPU|TPU)s?\b", head), "on what hardware?"
  assert re.search(r"\b(seconds?|minutes?|hours?|s|min|h)\b", head), "how long?"
  number = r"(?<![\w.])0?\.\d+\b|\b1\.0\b|not a score"
  assert re.search(number, head), "which number is to be expected?"


def test_results_in_the_readme_are_marked_for_redrawing():
  assert README.count("<!-- results:begin -->") == 1
  assert README.index("results:begin") < README.index("results:end")
  for image in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
    assert (ROOT / image).is_file(), image


def test_citation_and_package_agree():
  import jax_cl

  citation = (ROOT / "CITATION.cff").read_text()
  assert PROJECT["version"] == jax_cl.__version__
  assert f"version: {jax_cl.__version__}\n" in citation
  assert PROJECT["license"] in citation
  assert f"## {jax_cl.__version__}" in (ROOT / "CHANGELOG.md").read_text()
