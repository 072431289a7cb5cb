"""Opening of a Gymnasium task: its module, its arguments, and what is supported.

A module that is imported is code that runs, so none is imported because a file names it: ``import_task_module`` is
called for a task that the user has typed, ``import_named_module`` for a module that the user has typed, and
``open_task`` refuses a task of any other module.
"""

import copy
import importlib
import sys
from collections.abc import Iterator

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box
from gymnasium.wrappers import TimeLimit

from app.config.schema_env import EnvConfig, GymConfig
from app.config.task_id import require_typed_id, split_task_id
from app.core.errors import error_with_place
from app.core.system import hide_greeting_of_pygame
from app.envs.spec import EnvError

_SET_HERE = {"max_episode_steps": "set env.max_steps", "id": "set env.id"}  # arguments of gymnasium.make
_SET_HERE |= dict.fromkeys(("render_mode", "disable_env_checker"), "leave it out")


def import_task_module(config: EnvConfig) -> None:
    """Import the module that the id of a task names before a colon, as ``gymnasium.make`` does.

    Args:
        config: Configuration of an environment that the user has typed, and not one that was read from a run.

    Raises:
        EnvError: There is no such module, or it cannot be imported.
        UserError: The id may come from a file outside ``conf/`` and was not typed.
    """
    if isinstance(config, GymConfig) and (module := split_task_id(config.id)[0]) is not None:
        require_typed_id(config.id)
        _import(module, f"env.id = {config.id}")


def import_named_module(module: str | None) -> None:
    """Import the module that the user names as ``env_module``, if any.

    Raises:
        EnvError: There is no such module, or it cannot be imported.
    """
    if module is not None:
        _import(module, f"env_module = {module}")


def open_task(config: GymConfig) -> gymnasium.Env:
    """Make the task of a configuration.

    Raises:
        EnvError: There is no such task, its module was not imported, it cannot be made, or it is not supported.
    """
    hide_greeting_of_pygame()  # which the modules of many tasks import
    subject = f"env.id = {config.id}"
    module, name = split_task_id(config.id)
    if module is not None and module not in sys.modules:
        raise EnvError(
            f"{subject}: comes from a file, and names the module {module}, which is code. It is imported only if you "
            f"name it: if you trust it, add env_module={module}"
        )
    if taken := [argument for argument in config.kwargs or {} if argument in _SET_HERE]:
        raise EnvError(f"env.kwargs: {taken[0]} is no argument of the task: {_SET_HERE[taken[0]]}.")
    if ":" in name:
        raise EnvError(f"{subject}: names more than one module. Write MODULE:NAME.")
    task = _make(config, name, subject)
    if problem := _problem(task):
        task.close()
        raise EnvError(f"{subject}: {problem}.")
    return task


def _import(module: str, subject: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise EnvError(f"{subject}: {module} cannot be imported: {error_with_place(error)}.") from error
        raise EnvError(
            f"{subject}: there is no module {error.name}. Correct its name, install it, or name its folder in the "
            "variable PYTHONPATH."
        ) from None
    except Exception as error:  # of the module's own code, or no name of a module
        raise EnvError(f"{subject}: {module!r} cannot be imported: {error_with_place(error)}.") from error


def _make(config: GymConfig, name: str, subject: str) -> gymnasium.Env:
    try:
        spec = gymnasium.spec(name)
        creator = spec.entry_point
        if isinstance(creator, str):
            creator = load_env_creator(creator)
        # a task that cannot render may refuse the argument render_mode
        can_render = "rgb_array" in getattr(creator, "metadata", {}).get("render_modes", ())
        return gymnasium.make(
            spec,
            max_episode_steps=config.max_steps,
            disable_env_checker=True,  # it takes time in every step, and GymEnv checks what it needs
            **({"render_mode": "rgb_array"} if can_render else {}),
            **copy.deepcopy(config.kwargs or {}),
        )
    except (gymnasium.error.Error, ImportError) as error:
        raise EnvError(
            f"{subject}: {_one_line(error).rstrip('.')}. "
            "Use an installed Gymnasium task with Box observations and actions, such as Pendulum-v1."
        ) from error
    except Exception as error:  # of the task's own code
        given = "" if config.kwargs is None else f" with env.kwargs = {config.kwargs}"
        # Gymnasium appends all arguments to a TypeError
        reason = error_with_place(error).partition(" was raised from the environment creator")[0]
        raise EnvError(f"{subject}: cannot be made{given}: {reason}.") from error


def _problem(task: gymnasium.Env) -> str | None:
    """Return why a task is not supported, or None if it is."""
    observations, actions = getattr(task, "observation_space", None), getattr(task, "action_space", None)
    if not isinstance(observations, Box):
        return f"its observation space is {_one_line(observations)}; only a Box is supported"
    if not (isinstance(actions, Box) and np.issubdtype(actions.dtype, np.floating)):
        return f"its action space is {_one_line(actions)}; only a Box of floats is supported"
    for kind, space in (("observation", observations), ("action", actions)):
        if not np.prod(space.shape):
            return f"its {kind} space is {_one_line(space)}, which holds no number"
    if not np.isfinite(actions.high.astype(np.float64) - actions.low).all():
        return f"its action space is {_one_line(actions)}; only a Box with finite bounds is supported"
    if not any(isinstance(wrapper, TimeLimit) for wrapper in _wrappers(task)):
        return (
            "it has no limit on the steps of an episode, so an evaluation may never end. Set one, such as "
            "env.max_steps=1000"
        )
    return None


def _wrappers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env


def _one_line(value: object) -> str:
    return " ".join(str(value).split())
