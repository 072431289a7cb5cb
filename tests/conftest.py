from collections.abc import Callable

import pytest
import torch

from app.config.schema import Config
from tests import make

torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings


@pytest.fixture(autouse=True)
def _denormals():
    """A run flushes them to zero for the whole process; Hypothesis refuses to draw floats then."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def compose() -> Callable[..., Config]:
    """The configuration of the command line ``python app/train.py *overrides``."""
    return make.compose
