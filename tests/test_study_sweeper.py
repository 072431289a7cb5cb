"""Sweeper of ``hydra/sweeper=optuna``: what it hands to the Optuna sweeper, and how it ends."""

import errno
import signal
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool

import optuna
import pytest
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from hydra_plugins.hydra_optuna_sweeper import optuna_sweeper
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

import app.train
from app.config.multirun import Job
from app.core.errors import UserError
from app.sweep import study_setup
from app.sweep.session import StudyComplete
from app.sweep.study_store import END, ERROR, FOLDER, STOPPED
from app.sweep.study_sweeper import StudySweeper
from tests.helpers.sweeps import StartedSweep, SweepStarter

FakeSweep = Callable[[StartedSweep], None]


@pytest.fixture
def start(tmp_path, monkeypatch) -> Iterator[SweepStarter]:
    starter = SweepStarter(tmp_path, monkeypatch)
    yield starter
    starter.end_all()


@pytest.fixture
def run(monkeypatch) -> Callable[[StartedSweep, FakeSweep], dict]:
    """Run the sweeper of a started sweep with a stand-in for the Optuna sweeper; returns what that was given."""

    def run_sweeper(sweep: StartedSweep, fake: FakeSweep) -> dict:
        given = {}

        class FakeOptunaSweeper:
            def __init__(self, **settings):
                given.update(settings)

            def setup(self, **context):
                given.update(context)

            def sweep(self, arguments):
                given["arguments"] = arguments
                fake(sweep)

        monkeypatch.setattr(optuna_sweeper, "OptunaSweeper", FakeOptunaSweeper)
        monkeypatch.setattr(study_setup, "start_session", lambda _: sweep.session)
        sweeper = StudySweeper(launch=None, n_trials=50, n_jobs=1, study_name="mine")
        sweeper.setup(hydra_context="context", task_function="task", config=sweep.cfg)
        sweeper.sweep(["agent.gamma=0.99"])
        return given

    return run_sweeper


def fail_with(error: BaseException) -> FakeSweep:
    def fake(_: StartedSweep) -> None:
        raise error

    return fake


def test_train_registers_the_sweeper_that_the_configuration_names(start):
    sweep = start()
    name = sweep.cfg.hydra.sweeper._target_
    assert Plugins.instance().class_name_to_class[name] is StudySweeper
    assert app.train.WHITELIST == [sweep.cfg.hydra.sweeper.custom_search_space]


def test_optuna_sweeper_runs_what_is_left_of_the_study(start, run):
    sweep = start("hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2")
    given = run(sweep, lambda _: None)
    assert given == {
        "n_trials": 3, "n_jobs": 2, "study_name": "mine", "arguments": list(sweep.session.space.overrides),
        "params": None, "sampler": sweep.cfg.hydra.sweeper.sampler, "storage": given["storage"],
        "hydra_context": "context", "task_function": "task", "config": sweep.cfg,
    }  # fmt: skip


def test_complete_study_ends_the_sweep_without_an_error(start, run):
    sweep = start()
    run(sweep, fail_with(StudyComplete()))
    assert (sweep.folder.path / "report.html").exists() and not list(sweep.folder.launches.iterdir())


@pytest.mark.parametrize("error", [UserError("a: wrong"), RuntimeError("a bug")])
def test_sweep_that_cannot_start_asks_for_no_trial(monkeypatch, error):
    monkeypatch.setattr(study_setup, "start_session", lambda _: fail_with(error)(None))
    sweeper = StudySweeper()
    sweeper.setup(hydra_context=None, task_function=None, config=None)
    with pytest.raises(type(error), match=str(error)):
        sweeper.sweep([])


@pytest.mark.parametrize(
    "error", [StorageInternalError("the disk\nis full"), OperationalError("INSERT", {}, Exception("the disk is full"))]
)
def test_broken_storage_is_explained_in_one_line(start, run, error):
    sweep = start()
    with pytest.raises(UserError) as caught:
        run(sweep, fail_with(error))
    text = str(caught.value)
    assert text.startswith(f"{sweep.folder.path}: the storage of the study: ") and " disk" in text
    assert "\n" not in text and "he same command continues" in text


def test_study_that_is_deleted_while_it_runs_is_named(start, run, tmp_path):
    url = f"sqlite:///{tmp_path}/all.db"
    sweep = start(f"hydra.sweeper.storage={url}")

    def fake(_: StartedSweep) -> None:
        study = sweep.study
        trial = sweep.ask_and_assign()
        optuna.delete_study(study_name=study.study_name, storage=url)
        study.tell(trial, 1.0)

    with pytest.raises(UserError, match=r"study .* in sqlite.*all\.db: was deleted while the sweep ran"):
        run(sweep, fake)
    assert not list(sweep.folder.launches.iterdir())


def test_key_error_of_another_origin_keeps_its_traceback(start, run):
    with pytest.raises(KeyError, match="a bug"):
        run(start(), fail_with(KeyError("a bug")))


def test_killed_job_is_explained_with_what_needs_less_memory(start, run):
    with pytest.raises(UserError, match=r"the process of a job was killed.*hydra.launcher.n_jobs=1"):
        run(start(), fail_with(BrokenProcessPool("terminated")))


def test_study_without_a_finished_trial_is_explained(start, run):
    def fake(sweep: StartedSweep) -> None:
        sweep.study.tell(sweep.ask_and_assign().number, state=TrialState.FAIL)
        assert sweep.study.best_trial is None  # raises as the Optuna sweeper does at its end

    with pytest.raises(UserError, match="no trial of the study has finished; the reasons are above"):
        run(start(), fake)


def test_other_value_errors_keep_their_traceback(start, run):
    def fake(sweep: StartedSweep) -> None:
        sweep.ask_and_assign()
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run(start(), fake)


def test_waiting_trial_with_a_fixed_value_for_a_searched_key_is_reset(start, run):
    sweep = start()

    def fake(_: StartedSweep) -> None:
        sweep.ask_and_assign()
        raise ValueError("Overlapping fixed parameters and search space parameters found!")

    with pytest.raises(UserError, match="has been reset; give the same command again"):
        run(sweep, fake)
    assert sweep.states == ["FAIL", "WAITING"] and set(sweep.study.trials[1].user_attrs) == {FOLDER}
    assert sweep.study.trials[0].user_attrs[END] == STOPPED


def test_results_that_cannot_be_written_do_not_hide_how_the_sweep_ended(start, run, monkeypatch, capsys):
    sweep = start()
    monkeypatch.setattr(sweep.session, "write_results", lambda: fail_with(OSError("the disk is full"))(sweep))
    with pytest.raises(KeyboardInterrupt):
        run(sweep, fail_with(KeyboardInterrupt()))
    assert "the results cannot be written: the disk is full" in capsys.readouterr().err


def test_launch_that_is_terminated_between_two_trials_leaves_its_results(start, run):
    sweep, before = start(), signal.getsignal(signal.SIGTERM)

    def fake(_: StartedSweep) -> None:
        sweep.ask_and_assign()
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        run(sweep, fake)
    assert signal.getsignal(signal.SIGTERM) is before
    assert caught.value.code == 143 and (sweep.folder.path / "report.html").exists()
    assert sweep.states == ["FAIL", "WAITING"] and not list(sweep.folder.launches.iterdir())


def test_job_knows_its_launch_from_its_configuration_alone(start, monkeypatch):
    sweep = start()
    hydra = sweep.cfg.hydra
    monkeypatch.setattr("app.config.multirun.HydraConfig.get", lambda: hydra)
    hydra.job.num, hydra.mode = 4, RunMode.MULTIRUN
    job = Job.current()
    assert (job.trial.launch, job.trial.number, job.trial.study) == (sweep.launch.id, 4, sweep.folder.path)
    hydra.mode = RunMode.RUN
    with pytest.raises(UserError, match="a search needs -m"):
        Job.current()


def test_settings_that_the_sampler_refuses_are_reported_in_a_sentence(start, run, monkeypatch):
    def refuse(**_):
        raise TypeError("TPESampler.__init__() got an unexpected keyword argument 'foo'")

    monkeypatch.setattr(StudySweeper, "setup", lambda self, **_: setattr(self, "_context", {}))
    monkeypatch.setattr(optuna_sweeper, "OptunaSweeper", refuse)
    sweep = start()
    monkeypatch.setattr(study_setup, "start_session", lambda _: sweep.session)
    sweeper = StudySweeper()
    sweeper._config = sweep.cfg
    with pytest.raises(UserError, match="hydra.sweeper: TPESampler.* 'foo'. Correct its keys"):
        sweeper.sweep([])


def test_trial_that_cannot_be_composed_fails_with_its_reason_and_is_not_tried_again(start, run):
    sweep = start()

    def fake(_: StartedSweep) -> None:
        sweep.ask_and_assign()
        raise ConfigCompositionException("Could not override 'env.track'.\nKey is not in struct")

    with pytest.raises(UserError, match="a trial cannot be composed: Could not override 'env.track'. It counts as"):
        run(sweep, fake)
    assert sweep.states == ["FAIL"] and sweep.study.trials[0].user_attrs[ERROR] == "Could not override 'env.track'."


def test_file_of_the_study_that_cannot_be_written_is_named(start, run):
    error = OSError(errno.ENOSPC, "No space left on device", "mine/optimization_results.yaml")
    with pytest.raises(UserError, match=r"optimization_results.yaml: cannot be written \(No space left"):
        run(start(), fail_with(error))


def test_fixed_seed_of_the_sampler_draws_other_trials_in_every_launch(start, run):
    seeds = []
    for _ in range(3):
        sweep = start("hydra.sweeper.sampler.seed=7")
        seeds.append(run(sweep, lambda _: None)["sampler"].seed)
    assert seeds[0] == 7 and len(set(seeds)) == 3
