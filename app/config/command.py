"""Runs a Hydra command so that a mistake of the user's gives plain sentences and exit code 1."""

import functools
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig

from app.config.launchers import failed, not_installed
from app.errors import UserError

_FULL_ERROR = "HYDRA_FULL_ERROR"
_ADDED = "restart"  # a group that the defaults list leaves out


def in_words(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Let a task of ``hydra.main`` end with exit code 1 and the text of its UserError, without what Hydra adds.

    A job of ``-m`` raises it as it is: the others go on.
    """

    @functools.wraps(task)
    def wrapped(cfg: DictConfig) -> Any:
        try:
            return task(cfg)
        except UserError as error:
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise
            sys.exit(str(error))

    return wrapped


def run(command: Callable[[], object], schema: str) -> None:
    """Call a function decorated with ``hydra.main``.

    Args:
        command: the function.
        schema: name of its configuration in ``app.config.schema``, which is imported only to explain a mistake.

    With ``HYDRA_FULL_ERROR=1`` in the environment, errors keep their traceback.
    """
    if os.environ.get(_FULL_ERROR) == "1":
        command()
        return
    os.environ[_FULL_ERROR] = "1"  # Hydra then hands every error on instead of formatting it
    try:
        command()
    except UserError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT, as shells expect
    except CompactHydraException as error:
        sys.exit(_plain(error, schema))
    except Exception as error:
        words = failed(error) or (_misread(error) if isinstance(error, ValueError) else None)
        if words is None:
            raise
        sys.exit(words)
    finally:
        os.environ.pop(_FULL_ERROR, None)


def _plain(error: CompactHydraException, schema: str) -> str:
    """Hydra's own words, except where a person needs others: an unknown option, an unknown key."""
    from app.config import schema as schemas  # pydantic costs a fifth of a second
    from app.config.load import ConfigError, choose, unknown

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        if words := not_installed(error.missing_cfg_file):
            return words
        if error.options:
            group, _, option = error.missing_cfg_file.rpartition("/")
            return str(ConfigError([choose(group, option, error.options)]))
    if str(error).startswith("In 'sweep/"):  # its keys are of the Optuna sweeper
        return str(ConfigError(["sweep: a search space needs the sweeper that searches it. Add hydra/sweeper=optuna."]))
    key = re.match(r"Could not override '([^'@]+)'", str(error))
    if key is not None and key[1] == _ADDED:
        return str(ConfigError([f"{_ADDED}: is chosen with a plus. Write +{_ADDED}=clean or +{_ADDED}=archive."]))
    # Hydra would advise to append the key with a plus, and we would refuse that too.
    if key is not None:
        return str(ConfigError([unknown(key[1], getattr(schemas, schema))]))
    cause = f"\n{error.__cause__}" if error.__cause__ is not None else ""
    return f"{error}{cause}"


def _misread(error: ValueError) -> str | None:
    """What Hydra says of a command line that it cannot compose; None if the error comes from a job."""
    frames = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not frames[-1].startswith("hydra.") or "hydra.core.utils" in frames:
        return None
    return f"{error}\nThe command line was: {' '.join(sys.argv[1:])}"
