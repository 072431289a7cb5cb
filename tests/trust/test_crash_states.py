"""Power cuts: a start from every state that one may leave continues exactly, or refuses and names the way out."""

import itertools
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.helpers.crash_disk import Event, Mark, Recorder, Tree, crash_states, write_tree
from tests.helpers.crashed_runs import (
    SMALL,
    EpochDone,
    Finished,
    Refused,
    Resumed,
    Saving,
    digest,
    little_slack,
    record,
    resume,
    train_on,
    whole_result,
)
from tests.helpers.runs import first_difference
from tests.helpers.stopped_runs import Killed, configure, raise_at_safe_point
from tests.helpers.trust_size import SEED, cases
from tests.helpers.trust_table import record as record_in_table

OFTEN = "training.checkpoint_interval_s=0"
KILLS = 4  # of a run that is killed and started again before the power is cut
_TRAINED_ON = 0.04  # share of the states that are trained on to the end
_WAY_OUT = "+restart=clean"
NOTHING = digest({})


@pytest.fixture(scope="module", autouse=True)
def _little_slack():
    with little_slack():
        yield


class History:
    """What the recorded starts of a run had done at some moment, and what a start after a power cut may find.

    Args:
        events: All events of the recording.
    """

    def __init__(self, events: Sequence[Event]):
        self._events = events
        marks = [event.what for event in events if isinstance(event, Mark)]
        self.saved = {mark.digest for mark in marks if isinstance(mark, Saving)}
        self.networks = {mark.networks for mark in marks if isinstance(mark, Saving)}
        self.best = {0: NOTHING} | {mark.epoch: mark.best for mark in marks if isinstance(mark, EpochDone)}
        self.metrics = next(iter([mark.metrics for mark in reversed(marks) if isinstance(mark, EpochDone)]), ())

    def promised(self, moment: int) -> tuple[int, ...]:
        """Return the progress of the newest checkpoint that was saved before an event."""
        before = (event.what for event in itertools.islice(self._events, moment + 1) if isinstance(event, Mark))
        return max((mark.progress for mark in before if isinstance(mark, Saving) and mark.done), default=())

    def problem(self, found: Resumed, moment: int) -> str | None:
        """Return why a start did not continue exactly; None if it did."""
        if found.digest not in self.saved:
            return "a state that was never saved"
        if found.progress < self.promised(moment):
            return f"{found.progress} although {self.promised(moment)} had been saved"
        if found.metrics != self.metrics[: found.epochs]:
            return "other metrics"
        if found.best not in (self.best.get(epoch) for epoch in (found.epochs, found.epochs + 1)):
            return "another best policy"
        return None


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Resumed:
    """A new run, when it is about to train."""
    found = resume(tmp_path_factory.mktemp("fresh") / "run", *SMALL)
    assert isinstance(found, Resumed) and found.rows == 0 and found.best == NOTHING
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The result of a run that nobody stops."""
    return train_on(tmp_path_factory.mktemp("whole") / "run", *SMALL)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[Path, History]:
    """A run that was killed in its third epoch, with what it had done."""
    runs = tmp_path_factory.mktemp("stopped")
    return runs, History(record_until_killed(runs, 50, *SMALL).events)


def record_whole(runs: Path, *overrides: str) -> Recorder:
    recorder = Recorder(runs)
    record(recorder, configure(runs, *overrides))
    return recorder


def record_until_killed(runs: Path, safe_point: int, *overrides: str) -> Recorder:
    recorder = Recorder(runs)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        raise_at_safe_point(patch, safe_point, Killed())
        record(recorder, configure(runs, *overrides))
    return recorder


def record_killed(runs: Path, *overrides: str) -> Recorder:
    """Record a run that is killed some times, and started again with the same command, until it ends."""
    recorder, draw = Recorder(runs), random.Random(SEED)
    for _ in range(KILLS):
        recorder.kill_after(draw.randrange(20, 80))
        try:
            record(recorder, configure(runs, *overrides))
        except Killed:
            recorder.revive()
    recorder.revive()
    record(recorder, configure(runs, *overrides))
    return recorder


def search(what: str, states: Iterator[tuple[int, Tree]], folder: Path, problem_of: Callable) -> Counter:
    """Try every state, and return how many starts continued, began anew, refused …

    Args:
        what: Row of the table.
        states: Event before the power cut, and the tree that it leaves.
        folder: Scratch folder.
        problem_of: Gets the event, the path of the folder of the runs and a counter of outcomes; returns what is
            wrong, or None.
    """
    began, tried, problems, outcomes = time.monotonic(), 0, [], Counter()
    for moment, tree in states:
        runs = folder / f"{tried:05d}"
        write_tree(tree, runs)
        tried += 1
        if found := problem_of(moment, runs, outcomes):
            problems.append(f"{what}, state {tried} after event {moment}: {found}")
        else:
            shutil.rmtree(runs)
    record_in_table(what, tried, len(problems), time.monotonic() - began)
    assert not problems, "\n".join(problems[:20])
    return outcomes


@pytest.mark.parametrize(
    "what, record_run, overrides",
    [
        ("power cut in a run", record_whole, ()),
        ("power cut in a run that saves all the time", record_whole, (OFTEN,)),
        ("power cut in a run that was killed before", record_killed, ()),
    ],
    ids=["whole", "often", "killed"],
)
def test_run_continues_exactly_from_every_state_of_a_power_cut(tmp_path, fresh, whole, what, record_run, overrides):
    (tmp_path / "recorded").mkdir()
    recorder = record_run(tmp_path / "recorded", *SMALL, *overrides)
    assert first_difference(whole, whole_result(tmp_path / "recorded" / "run")) is None
    history, draw = History(recorder.events), random.Random(SEED)

    def problem_of(moment: int, runs: Path, outcomes: Counter) -> str | None:
        found = resume(runs / "run", *SMALL, *overrides)
        outcomes[type(found).__name__] += 1
        if isinstance(found, Refused):
            return found.message
        if isinstance(found, Finished):
            return first_difference(whole, found.result)
        is_fresh = not history.promised(moment) and found.digest == fresh.digest
        problem = None if is_fresh and found == fresh else history.problem(found, moment)
        if problem is None and draw.random() < _TRAINED_ON:
            outcomes["trained on"] += 1
            problem = first_difference(whole, train_on(runs / "run", *SMALL, *overrides))
        return problem

    outcomes = search(what, crash_states(recorder, cases(300), SEED), tmp_path / "states", problem_of)
    assert outcomes["Resumed"]


@pytest.mark.parametrize(
    "what, safe_point, restart",
    [
        ("power cut in +restart=clean", 30, ("+restart=clean",)),
        ("power cut in +restart=archive", 30, ("+restart=archive",)),
        ("power cut in +restart=clean of the replay", 12, ("+restart=clean", "restart.targets=[replay]")),
    ],
    ids=["clean", "archive", "replay"],
)
def test_restart_ends_or_is_repeated_after_every_state_of_a_power_cut(
    tmp_path, fresh, stopped, what, safe_point, restart
):
    old_runs, old = stopped
    shutil.copytree(old_runs, tmp_path / "recorded")
    before = {path.name: path.read_bytes() for path in sorted((tmp_path / "recorded").rglob("*")) if path.is_file()}
    recorder = record_until_killed(tmp_path / "recorded", safe_point, *SMALL, *restart)
    new, keeps_networks = History(recorder.events), "restart.targets=[replay]" in restart
    kept = [before["metrics.jsonl"]]
    if "+restart=archive" in restart:
        kept += [content for name, content in before.items() if name.endswith((".pt", ".safetensors", ".bin"))]

    def problem_of(moment: int, runs: Path, outcomes: Counter) -> str | None:
        there = {path.read_bytes() for path in runs.rglob("*") if path.is_file()}
        if any(content not in there for content in kept):
            return "a file that had to be kept is gone"
        again = runs.with_name(f"{runs.name}-again")
        shutil.copytree(runs, again)
        problem = problem_of_same_command(again / "run", outcomes)
        problem = problem or problem_without_restart(moment, runs / "run", outcomes)
        shutil.rmtree(again)
        return problem

    def problem_of_same_command(folder: Path, outcomes: Counter) -> str | None:
        found = resume(folder, *SMALL, *restart)
        outcomes[f"again {type(found).__name__}"] += 1
        if not isinstance(found, Resumed):
            return f"with restart: {found}"
        if keeps_networks:
            known = found.networks in old.networks | new.networks
            return None if known and found.rows == 0 else "with restart: not the networks with an empty replay"
        return None if found == fresh else "with restart: not a new run"

    def problem_without_restart(moment: int, folder: Path, outcomes: Counter) -> str | None:
        found = resume(folder, *SMALL)
        outcomes[type(found).__name__] += 1
        if isinstance(found, Refused):
            if new.promised(moment):
                return f"refused although the new run had saved: {found.message}"
            return None if _WAY_OUT in found.message else found.message
        if not isinstance(found, Resumed):
            return str(found)
        if found == fresh and not new.promised(moment) and not keeps_networks:
            return None
        if found.digest in new.saved and keeps_networks:
            return None if found.progress >= new.promised(moment) else "not the newest checkpoint"
        if found.digest in new.saved:
            return new.problem(found, moment)
        return "the old run continues" if new.promised(moment) else old.problem(found, -1)

    outcomes = search(what, crash_states(recorder, cases(150), SEED), tmp_path / "states", problem_of)
    assert outcomes["again Resumed"]
