"""Studies in a real PostgreSQL server, which machines share."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest

from app.core.errors import UserError
from app.sweep.study_fingerprint import SEARCHED
from app.sweep.study_store import FOLDER, StudyStore
from tests.helpers.postgres import PASSWORD, Server, missing, running
from tests.helpers.runs import finish
from tests.test_sweep_runs import NAME, run_sweep

FROM_ENVIRONMENT = "hydra.sweeper.storage=${oc.env:OPTUNA_STORAGE}"
ENCODED = "s3cret%2Fof%40the%3Atests"  # how PASSWORD stands in a URL


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server that all tests share, with its database."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with running() as server:
        server.make_database()
        yield server


@pytest.fixture
def postgres(server: Server) -> Server:
    """The server with an empty database."""
    server.empty()
    return server


def trials_of(url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=NAME, storage=url).trials


def files_with(folder: Path, *texts: str) -> list[Path]:
    """Files below a folder that contain one of the texts, in their name or content."""
    wanted = [text.encode() for text in texts]
    return [
        path for path in folder.rglob("*")
        if any(text in bytes(path) or (path.is_file() and text in path.read_bytes()) for text in wanted)
    ]  # fmt: skip


@pytest.mark.e2e
def test_study_continues_with_another_launcher_and_shows_its_password_nowhere(postgres, tmp_path, monkeypatch):
    url = postgres.url()
    monkeypatch.setenv("OPTUNA_STORAGE", url)
    out = finish(run_sweep(tmp_path, FROM_ENVIRONMENT, "hydra.sweeper.n_trials=1"))
    assert [trial.state.name for trial in trials_of(url)] == ["COMPLETE"]
    out += finish(run_sweep(tmp_path, FROM_ENVIRONMENT, "hydra.sweeper.n_trials=2", "hydra/launcher=submitit_local"))
    trials = trials_of(url)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
    folders = [tmp_path / NAME / "trials" / trial.user_attrs[FOLDER] for trial in trials]
    assert len(set(folders)) == 2 and all((folder / "summary.json").is_file() for folder in folders)
    assert not (tmp_path / NAME / "study.db").exists()
    assert "tester:***@127.0.0.1" in out and PASSWORD not in out and ENCODED not in out
    assert list((tmp_path / NAME / ".submitit").rglob("*.pkl")) and not files_with(tmp_path, PASSWORD, ENCODED)


def test_launches_may_create_the_tables_at_the_same_moment(postgres):
    together = threading.Barrier(2)

    def begin(_: int) -> None:
        store = StudyStore(postgres.url(), "mine")
        together.wait()
        assert store.load() is None or store.is_ours(store.load())
        store.create({}, ["maximize"])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(begin, range(2)))
    assert optuna.get_all_study_names(postgres.url()) == ["mine"]


@pytest.mark.slow
def test_machines_without_a_common_folder_share_a_study(postgres, tmp_path, monkeypatch):
    url, sweeps = postgres.url(), [tmp_path / "one", tmp_path / "other"]
    monkeypatch.setenv("OPTUNA_STORAGE", url)
    both = [run_sweep(folder, FROM_ENVIRONMENT, "hydra.sweeper.n_trials=4", "threads=1") for folder in sweeps]
    outs = [finish(process) for process in both]
    finished = [trial for trial in trials_of(url) if trial.state.name == "COMPLETE"]
    assert len(finished) == 4 and all("best " in out for out in outs)
    names = [{path.name for path in (folder / NAME / "trials").iterdir()} for folder in sweeps]
    assert all(names) and not names[0] & names[1]
    assert names[0] | names[1] == {trial.user_attrs[FOLDER] for trial in finished}


def test_wrong_password_is_refused_without_showing_it(postgres, tmp_path, monkeypatch):
    monkeypatch.setenv("OPTUNA_STORAGE", postgres.url(password="guessed/wrong"))
    process = run_sweep(tmp_path, FROM_ENVIRONMENT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in err
    assert "password authentication failed for user" in err and "tester:***@127.0.0.1" in err
    assert len(err.strip().splitlines()) == 1 and "guessed" not in out + err
    assert not files_with(tmp_path, "guessed")


def test_missing_environment_variable_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    process = run_sweep(tmp_path, FROM_ENVIRONMENT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in err and "'OPTUNA_STORAGE' not found" in err


def test_unreachable_server_is_explained_without_the_password():
    with pytest.raises(
        UserError, match=r"tester:\*\*\*@127.0.0.1:1/studies: cannot be used .*Connection refused"
    ) as told:
        StudyStore(Server(port=1).url(), "mine").load()
    assert PASSWORD not in str(told.value) and ENCODED not in str(told.value)


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg"])
def test_restart_removes_only_this_study_from_a_shared_server(postgres, driver):
    url = postgres.url(driver=driver)
    foreign = optuna.create_study(study_name="foreign", storage=url)
    foreign.tell(foreign.ask(), 1.0)
    mine = StudyStore(url, "mine")
    assert mine.load() is None
    mine.create({"env.name": "sim", SEARCHED: []}, ["maximize"])
    with pytest.raises(UserError, match="env.name: sim → other"):
        mine.require_same_fingerprint({"env.name": "other", SEARCHED: []})
    study = mine.load()
    study.tell(study.ask(), 2.0)
    mine.delete(copy_as="kept")
    assert set(optuna.get_all_study_names(url)) == {"foreign", "kept"}
    assert optuna.load_study(study_name="kept", storage=url).best_value == 2.0


def test_password_may_come_from_a_file_of_the_user(postgres, tmp_path, monkeypatch):
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"127.0.0.1:{postgres.port}:*:tester:{PASSWORD.replace(':', chr(92) + ':')}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    store = StudyStore(postgres.url(password=None), "mine")
    store.create({}, ["maximize"])
    assert store.load() is not None
