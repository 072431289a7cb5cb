"""Power cuts while the results of a study are written: every file is an old one or a new one, and they fit together."""

import time
from collections.abc import Sequence

import pytest

from app.sweep.report.html import ReportPage
from app.sweep.report.writer import write_results
from app.sweep.study_folder import StudyFolder
from tests.helpers.crash_disk import Mark, Recorder, Tree, crash_states
from tests.helpers.studies import NAME, as_overrides, make_study, make_trial, write_trial_config
from tests.helpers.trust_size import SEED, cases
from tests.helpers.trust_table import record

SCHEDULES = ("3", None, "4", "5", None)  # training.epochs of the best trial; with one, best.yaml needs a second file


def write_all(folder: StudyFolder, recorder: Recorder) -> list[dict[str, bytes]]:
    """Write the results of a study that grows, and return what the folder held after each time."""
    trials, versions = [], []
    for number, epochs in enumerate(SCHEDULES):
        fixed = {} if epochs is None else {"training.epochs": epochs}
        write_trial_config(folder, f"{number:05d}", *as_overrides(fixed))
        trials.append(make_trial(float(number), {}, fixed=fixed, folder=f"{number:05d}"))
        write_results(folder, make_study(*trials))
        recorder.mark(number)
        found = [path for path in folder.path.rglob("*") if path.is_file() and folder.trials not in path.parents]
        versions.append({str(path.relative_to(recorder.root)): path.read_bytes() for path in found})
    return versions


def problem(name: str, tree: Tree, versions: Sequence[dict[str, bytes]], promised: int, is_writing: bool) -> str | None:
    """Return what is wrong with a file after a power cut, of which some versions had been written; None if nothing."""
    if name not in tree:  # best.yaml goes before a schedule that does not belong to it
        return None if promised < 0 or (is_writing and name.endswith("best.yaml")) else f"{name} is missing"
    known = [number for number, version in enumerate(versions) if version[name] == tree[name]]
    if not any(number >= promised for number in known):
        return f"{name} is version {known} although {promised} was written"
    schedule = {path: content for path, content in versions[known[0]].items() if "/schedule/" in path}
    if name.endswith("best.yaml") and any(tree.get(path) != content for path, content in schedule.items()):
        return f"{name} lacks its schedule"
    return None


def test_results_of_a_study_are_whole_after_every_power_cut(tmp_path):
    began, problems = time.monotonic(), []
    recorder = Recorder(tmp_path)
    with recorder.recording(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReportPage, "render", lambda self: f"<html>{len(self.records)}" + "plotly " * 500)
        versions = write_all(StudyFolder(tmp_path, NAME), recorder)
    marks = {number: event.what for number, event in enumerate(recorder.events) if isinstance(event, Mark)}
    names = ("best.yaml", "best.json", "trials.csv", "report.html")
    states = list(crash_states(recorder, cases(200), SEED))
    for moment, tree in states:
        promised = max((version for number, version in marks.items() if number <= moment), default=-1)
        for name in (f"{NAME}/{name}" for name in names):
            if found := problem(name, tree, versions, promised, is_writing=moment not in marks):
                problems.append(f"after event {moment}: {found}")
    record("power cut while the results of a study are written", len(states), len(problems), time.monotonic() - began)
    assert not problems, "\n".join(problems[:20])
