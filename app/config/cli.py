"""Entry point of the commands: a mistake of the user's gives plain sentences and exit code 1, not a traceback."""

import dataclasses
import functools
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError

from app.config.command_line import as_meant, misspelling, version_line
from app.config.launchers import launcher_failure, missing_plugin
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
            sys.exit(str(error))

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
        sys.exit(advice)
    sys.argv[1:] = as_meant(sys.argv[1:])
    if os.environ.get(_FULL_ERROR) == "1":
        command()
        return
    os.environ[_FULL_ERROR] = "1"  # Hydra then raises every error instead of formatting it
    try:
        command()
    except UserError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT, as shells expect
    except CompactHydraException as error:
        sys.exit(_explain(error, schema))
    except InterpolationResolutionError as error:  # such as an environment variable that is not set
        sys.exit(str(error))
    except Exception as error:
        message = launcher_failure(error) or _explain_command_line(error)
        if message is None:
            raise
        sys.exit(message)
    finally:
        os.environ.pop(_FULL_ERROR, None)


def _keys(schema: str) -> list[str]:
    """Return the keys on the highest level of a configuration."""
    return [field.name for field in dataclasses.fields(pkgutil.resolve_name(schema))]


def _explain(error: CompactHydraException, schema: str) -> str:
    """Return the message for an error of Hydra's: its own text, except for an unknown option and an unknown key."""
    from app.config.load import ADDED_GROUP, ConfigError, invalid_option, unknown_key

    if isinstance(error, OverrideParseException) and "mismatched input '='" in str(error):
        name, _, value = error.override.partition("=")
        return f"{error.override}: a value with an equals sign takes quotes within quotes: '{name}=\"{value}\"'"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        if message := missing_plugin(error.missing_cfg_file):
            return message
        if error.options:
            group, _, option = error.missing_cfg_file.rpartition("/")
            return str(ConfigError([invalid_option(group, option, error.options)]))
    key = re.match(r"Could not override '([^'@]+)'", str(error))
    if key is not None and key[1] == ADDED_GROUP:
        return str(ConfigError([f"{key[1]}: is added with a plus. Write +{key[1]}=clean or +{key[1]}=archive."]))
    if key is not None and key[1].startswith(f"{ADDED_GROUP}."):
        return str(ConfigError([f"{key[1]}: belongs to a restart. Write +{ADDED_GROUP}=clean, too."]))
    if key is not None and key[1].startswith("hydra.sweeper."):
        return str(ConfigError([f"{key[1]}: belongs to a search. Write -m hydra/sweeper=optuna, too."]))
    # Hydra would advise to append the key with a plus, which the schema would refuse, too.
    if key is not None:
        return str(ConfigError([unknown_key(key[1], pkgutil.resolve_name(schema))]))
    cause = f"\n{error.__cause__}" if error.__cause__ is not None else ""
    return f"{error}{cause}"


def _explain_command_line(error: Exception) -> str | None:
    """Return the message for a command line that Hydra cannot compose; None if the error comes from a job."""
    if not isinstance(error, ValueError):
        return None
    frames = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not frames[-1].startswith("hydra.") or "hydra.core.utils" in frames:
        return None
    text = str(error)
    if text.startswith("Config group override must be"):
        text = (
            "A group of the configuration takes the name of one of its options, such as norm=group or +restart=clean."
        )
    return f"{text}\nThe command line was: {' '.join(sys.argv[1:])}"
