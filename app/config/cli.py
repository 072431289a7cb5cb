"""Entry point of the commands: a mistake of the user's gives plain sentences and exit code 1, not a traceback."""

import dataclasses
import functools
import os
import pkgutil
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError

from app.config.command_line import as_meant, hide_secrets, misspelling, version_line
from app.config.config_files import explain_config_file
from app.config.hydra_errors import explain, explain_crash
from app.config.launchers import launcher_failure
from app.core.errors import UserError
from app.core.output import protect_output

_FULL_ERROR = "HYDRA_FULL_ERROR"


def as_user_errors(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Make a task of ``hydra.main`` exit with code 1 and the text of its UserError, without Hydra's additions.

    A job of ``-m`` raises the error instead, so that the other jobs continue.
    """

    @functools.wraps(task)
    def wrapped(cfg: DictConfig) -> Any:
        try:
            return task(cfg)
        except UserError as error:
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise
            _leave(str(error))

    return wrapped


def run(command: Callable[[], object], schema: str) -> None:
    """Call a function decorated with ``hydra.main``.

    With ``HYDRA_FULL_ERROR=1`` in the environment, errors keep their traceback.

    Args:
        command: The function.
        schema: Dataclass of its configuration, such as "app.config.schema:Config". It is imported only to explain a
            mistake, because pydantic costs a fifth of a second.
    """
    protect_output()
    if "--version" in sys.argv[1:]:
        print(version_line())
        return
    if (advice := misspelling(sys.argv[1:], lambda: _keys(schema))) is not None:
        _leave(advice)
    sys.argv[1:] = as_meant(sys.argv[1:])
    if os.environ.get(_FULL_ERROR) == "1":
        command()
        return
    os.environ[_FULL_ERROR] = "1"  # Hydra then raises every error instead of formatting it
    try:
        command()
    except UserError as error:
        _leave(str(error))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT, as shells expect
    except CompactHydraException as error:
        _leave(explain(error, schema, sys.argv[1:]))
    except InterpolationResolutionError as error:  # such as an environment variable that is not set
        _leave(str(error))
    except Exception as error:
        words = sys.argv[1:]
        message = launcher_failure(error) or explain_config_file(error, words) or explain_crash(error, words)
        if message is None:
            raise
        _leave(message)
    finally:
        os.environ.pop(_FULL_ERROR, None)


def _keys(schema: str) -> list[str]:
    """Return the keys on the highest level of a configuration."""
    return [field.name for field in dataclasses.fields(pkgutil.resolve_name(schema))]


def _leave(text: str) -> NoReturn:
    """End the program with a message: without secrets of the command line, and without what a terminal would obey."""
    from app.core.console import printable  # rich takes time to import, and most commands end without a message

    sys.exit("\n".join(map(printable, hide_secrets(text, sys.argv[1:]).split("\n"))))
