"""Marks everything in this folder, and prints one table of what was tried at the end."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.helpers import trust_table

_HERE = Path(__file__).parent
_TIMEOUT_S = 7200  # of one search


def pytest_configure(config):
    if trust_table.FILE not in os.environ:  # the workers of xdist inherit it
        os.environ[trust_table.FILE] = str(Path(tempfile.gettempdir()) / f"trust-{os.getpid()}.jsonl")
        config.add_cleanup(lambda: Path(os.environ.pop(trust_table.FILE)).unlink(missing_ok=True))


def pytest_collection_modifyitems(items):
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.trust)
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


def pytest_terminal_summary(terminalreporter):
    if rows := trust_table.read_rows(Path(os.environ[trust_table.FILE])):
        terminalreporter.section("what was tried")
        for line in trust_table.as_lines(rows):
            terminalreporter.write_line(line)
