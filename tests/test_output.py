"""Output that cannot be written any more is dropped, and the program goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.core.output import prefixed_output
from tests.helpers.runs import ROOT
from tests.helpers.stopped_runs import PENDULUM

PRINTS_A_LOT = """
import sys
from app.core.output import LastingOutput
sys.stdout = LastingOutput(sys.stdout)
for number in range(100_000):
    print("line", number)
sys.stdout.flush()
print(sys.stdout.isatty(), sys.stdout.encoding, file=sys.stderr)
"""


def test_closed_pipe_does_not_end_the_program():
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTS_A_LOT], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    assert process.stderr.read().startswith("False utf")
    assert process.wait(timeout=60) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_does_not_end_the_program():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PRINTS_A_LOT], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 0 and done.stderr.startswith("False utf")


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_output_that_is_closed_from_the_beginning_is_dropped(closed):
    script = "import sys; from app.core.output import protect_output; protect_output(); print(1); sys.exit('end')"
    command = f'"{sys.executable}" -c "{script}" {closed}'
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert (done.stdout, done.stderr) == ("" if closed.startswith(">") else "1\n", "" if "2" in closed else "end\n")


@pytest.mark.e2e
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_training_without_a_console_leaves_its_result(tmp_path):
    command = [sys.executable, "app/train.py", *PENDULUM, "training.epochs=1", f"runs_dir={tmp_path}", "run_name=mine"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, env={**os.environ}, stdout=full, stderr=full, timeout=280)
    assert done.returncode == 0
    assert json.loads((tmp_path / "mine" / "summary.json").read_text())["stop_reason"] == "finished"


def test_lines_have_a_prefix_and_are_written_whole(capsys):
    with prefixed_output("[seed=1] "):
        print("one", end="")
        assert capsys.readouterr().out == ""  # another job could print in between
        print(" line\n\nt", end="")
        sys.stdout.writelines(["w", "o"])
        assert not sys.stdout.isatty()
    assert capsys.readouterr().out == "[seed=1] one line\n[seed=1] \n[seed=1] two\n"
    with prefixed_output(""):
        print("as it is")
    assert capsys.readouterr().out == "as it is\n"
