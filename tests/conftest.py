from collections.abc import Callable

import pytest

from app.config.schema import Config
from tests import make


@pytest.fixture
def compose() -> Callable[..., Config]:
    """The configuration of the command line ``python app/train.py *overrides``."""
    return make.compose
