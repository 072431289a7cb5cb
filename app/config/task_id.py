"""Id of a Gymnasium task, such as "Pendulum-v1" or "my_tasks:Reach-v0": its module, and its name for folders."""

import re
import sys
from pathlib import Path

from app.core.errors import UserError

_NO_PART_OF_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def split_task_id(task_id: str) -> tuple[str | None, str]:
    """Return the module that registers a task, or None if its id names none, and the id under which it is registered.

    Args:
        task_id: Id as ``gymnasium.make`` takes it.
    """
    module, colon, name = task_id.partition(":")
    return (module, name) if colon else (None, task_id)


def task_name(task_id: object) -> str:
    """Return an id in the characters of ``types.Name``: "my_tasks:Reach-v0" becomes "my_tasks-Reach-v0"."""
    return _NO_PART_OF_A_NAME.sub("-", str(task_id)).strip("-._") or "task"


def require_typed_id(task_id: str) -> None:
    """Refuse an id that names a module if a command also reads configuration outside ``conf/``, unless it is typed.

    Such a file may be somebody else's, as the ``best.yaml`` of a study, and a module that is imported is code that
    runs. The list of overrides that Hydra keeps is no proof: a file can add to it.

    Args:
        task_id: Value of ``env.id``, which names a module.

    Raises:
        UserError: The id is not on the command line, and may not come from ``conf/``.
    """
    from hydra.core.hydra_config import HydraConfig  # imported here: a simulator alone needs no Hydra

    from app.config.load import CONF

    if not HydraConfig.initialized():  # a child process: the command has checked it
        return
    module, _ = split_task_id(task_id)
    if any(word.lstrip("+").startswith("env.id=") and module in word for word in sys.argv[1:]):
        return
    files = [source.path for source in HydraConfig.get().runtime.config_sources if source.schema == "file"]
    if any(Path(path).resolve() != CONF for path in files):
        raise UserError(
            f"env.id = {task_id}: may come from a file outside conf/ and names a module, which is code. It is "
            f"imported only if you type it: if you trust it, add env.id={task_id}"
        )
