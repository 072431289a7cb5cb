"""Files that would stop a process: nested without end, a few lines for terabytes, numbers that no memory holds."""

import json

import pytest

from app.ablation.evidence_runs import MOST_EPOCHS, read_evidence
from app.ablation.failure_order import examine
from app.core.errors import UserError
from app.reporting.curves import read_metrics
from app.reporting.run_facts import DAMAGED, run_facts
from app.runs.config_file import read_config, write_config
from app.runs.fingerprint import read_fingerprint
from app.runs.run_folder import RunFolder
from tests.helpers.evidence import lap_rows, write_rows
from tests.helpers.make import compose

LAUGHS = "a: &a [x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE_YAML = {"aliases": LAUGHS, "lists": "[" * 100_000, "mappings": "{a: " * 100_000, "dashes": "- " * 5_000}


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run"
    write_config(path / "config.yaml", compose("env=sim_lidar"))
    return path


def write_metrics(run, *lines: dict):
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.mark.parametrize("text", HOSTILE_YAML.values(), ids=HOSTILE_YAML)
def test_hostile_configuration_is_refused_before_it_is_loaded(text, run):
    (run / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="is damaged: it (has an alias|is nested too deeply)"):
        read_config(run / "config.yaml")
    assert run_facts(run).state == DAMAGED


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"step": 1, "epoch": "x"}', "line 2: epoch is no number"),
        ('{"step": true}', "line 2: it has no step"),
        ("[]", "line 2: it has no step"),
        ('{"step": 1, "q_mean": ' + "9" * 400 + "}", "line 2: a number has 400 digits"),
        ("[" * 100_000, "line 2: it is nested too deeply"),
    ],
    ids=range(5),
)
def test_line_of_metrics_without_numbers_is_named(line, reason, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 0, "epoch": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=reason):
        read_metrics(path)


def test_deeply_nested_fingerprint_is_refused(tmp_path):
    (tmp_path / "fingerprint.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="nested too deeply. Remove it"):
        read_fingerprint(tmp_path / "fingerprint.json", "Remove it.")


@pytest.mark.parametrize("epochs", [(0, 1), (2, 1), (1, 10**9), (-5, 1)])
def test_epochs_that_cannot_be_are_refused_in_a_post_mortem(epochs, run):
    write_metrics(run, *({"step": step, "epoch": epoch} for step, epoch in enumerate(epochs)))
    with pytest.raises(UserError, match="metrics.jsonl: cannot be read .*epoch"):
        examine(RunFolder(run), {})


@pytest.mark.parametrize("column", ["epoch", "seed", "collapsed_at"])
@pytest.mark.parametrize("value", [10**9, "9" * 5000])
def test_numbers_of_an_evidence_table_are_bounded(column, value, tmp_path):
    rows = lap_rows("fixed", 1, [0.5, 0.6])
    for row in rows[1:] if column == "epoch" else rows:
        row[column] = value
    path = write_rows(tmp_path / "evidence.csv", rows)
    if column != "epoch" and value == 10**9:
        assert len(read_evidence(path)) == 1  # which costs nothing
        return
    with pytest.raises(UserError, match=f"at most {MOST_EPOCHS}|must be a whole number") as error:
        read_evidence(path)
    assert len(str(error.value)) < 400 + len(str(path))


def test_truncated_configuration_is_answered_with_few_of_its_missing_keys(run):
    (run / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(UserError, match="and [0-9]+ more; the file may have been cut off") as error:
        read_config(run / "config.yaml")
    assert len(str(error.value).splitlines()) < 30
