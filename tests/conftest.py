import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.config.schema import Config
from tests.helpers import make

torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings


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
    from app.training.run import train
    from app.training.stop import INTERRUPTED, Stopped
    from tests.helpers import stopped_runs

    runs = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        stopped_runs.use_little_slack(patch)
        stopped_runs.raise_at_safe_point(patch, 40, Stopped(INTERRUPTED))
        train(stopped_runs.configure(runs, *stopped_runs.QUICK))
    return runs / "run"


@pytest.fixture
def stopped(stopped_once, tmp_path, monkeypatch) -> tuple:
    """The configuration and a folder of its own of a run that was stopped in its second epoch."""
    from app.runs.run_folder import RunFolder
    from tests.helpers import stopped_runs

    stopped_runs.use_little_slack(monkeypatch)
    shutil.copytree(stopped_once, tmp_path / "run")
    return stopped_runs.configure(tmp_path, *stopped_runs.QUICK), RunFolder(tmp_path / "run")
