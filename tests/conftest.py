import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.config.schema import Config
from tests.helpers import make

torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings


def pytest_collection_finish() -> None:
    """Search for garbage seldom, and never among the modules of the application and of its libraries."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)  # of the newest objects; the default of 700 costs a tenth of the time of all tests


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk():
    """Leave what is written in the memory of the system: no power cut follows, and a run syncs fifty times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which refuses a closed file as well
        yield


@pytest.fixture(autouse=True)
def _denormals():
    """Undo a process-wide setting of runs, with which Hypothesis refuses to draw floats."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def compose() -> Callable[..., Config]:
    """Return a function that makes the configuration of ``python app/train.py *overrides``."""
    return make.compose


@pytest.fixture(scope="session")
def stopped_once(tmp_path_factory) -> Path:
    """The folder of a quick run that was stopped in its second epoch; tests work on copies."""
    from tests.helpers import stopped_runs

    return stopped_runs.train_until_stopped(tmp_path_factory.mktemp("stopped"), *stopped_runs.SHORT)


@pytest.fixture(scope="session")
def stopped_pendulum_once(tmp_path_factory) -> Path:
    """As ``stopped_once``, with the smallest network, for what depends on neither the task nor the network."""
    from tests.helpers import stopped_runs

    return stopped_runs.train_until_stopped(tmp_path_factory.mktemp("stopped"), *stopped_runs.SHORT_PENDULUM)


@pytest.fixture
def stopped(stopped_once, tmp_path, monkeypatch) -> tuple:
    """The configuration and a folder of its own of a run that was stopped in its second epoch."""
    from tests.helpers import stopped_runs

    return stopped_runs.copy_run(stopped_once, tmp_path, monkeypatch, *stopped_runs.SHORT)


@pytest.fixture
def stopped_pendulum(stopped_pendulum_once, tmp_path, monkeypatch) -> tuple:
    """As ``stopped``, with the smallest network."""
    from tests.helpers import stopped_runs

    return stopped_runs.copy_run(stopped_pendulum_once, tmp_path, monkeypatch, *stopped_runs.SHORT_PENDULUM)
