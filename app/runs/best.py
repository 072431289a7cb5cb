"""A run that has a best policy."""

from app.config.schema import Config
from app.errors import UserError
from app.runs.config_file import read_config
from app.runs.folder import RunFolder


def config_of_best(folder: RunFolder) -> Config:
    """Return the configuration under which the best policy was made.

    Raises:
        UserError: the folder holds no run, or one without a best policy.
    """
    for path, what in ((folder.config, "no run"), (folder.best_actor, "a run without a best policy yet")):
        if not path.is_file():
            raise UserError(f"run = {folder.path}: holds {what} ({path} is missing). Name a folder below runs/.")
    return read_config(folder.config)
