import pytest

from jax_cl import metrics, names, shell
from jax_cl.reports import __main__ as reports


def test_a_mistake_is_a_line_and_exit_code_2(capsys):
  main = shell.command(lambda name: names.check("split", name, ["test"]) or 0)
  assert main("test") == 0
  assert main("tets") == 2
  assert capsys.readouterr().err == (
    "error: unknown split 'tets' (did you mean 'test'?); known: ['test']\n"
  )


def test_a_value_error_that_nobody_raised_on_purpose_is_a_bug():
  with pytest.raises(ValueError, match="invalid literal"):
    shell.command(int)("three")


def test_what_stops_a_run_has_other_codes(capsys):
  def stop(e):
    raise e

  main = shell.command(stop)
  assert main(FloatingPointError("loss is nan")) == 1
  assert main(KeyboardInterrupt()) == 130
  assert capsys.readouterr().err == "stopped: loss is nan\ninterrupted\n"


@pytest.mark.parametrize("main", [metrics.main, reports.main])
@pytest.mark.parametrize("arguments", [["--workdir=nowhere"], ["--wrkdir=x"]])
def test_commands_on_a_workdir_answer_alike(main, arguments, capsys):
  assert main(arguments) == 2
  err = capsys.readouterr().err
  assert err.startswith("error: ") and err.count("\n") == 1
  assert "nowhere" in err or "--workdir" in err
