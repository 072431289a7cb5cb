from collections.abc import Callable

import pytest
import torch

from app.config.schema import Config
from tests import make

torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings


@pytest.fixture
def compose() -> Callable[..., Config]:
    """The configuration of the command line ``python app/train.py *overrides``."""
    return make.compose
