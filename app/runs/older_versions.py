"""Configurations that an older version of this program kept, completed with the keys of this version."""

import functools
from collections.abc import Mapping
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf

from app.config.composition import compose_settings
from app.config.key_effects import can_change_learning
from app.core.errors import UserError
from app.runs.fingerprint import FlatDict, flatten, unflatten, with_current_names

_SHOWN = 20  # keys in a message


def complete(subject: str, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration with the keys of this version.

    Renamed keys get their new names. A missing key gets today's default, and a key that no longer exists is dropped,
    unless it can have changed what was learned.

    Args:
        subject: File of the configuration, for messages.
        recorded: The configuration as it was written, nested.

    Returns:
        The configuration, nested; its values are not validated.

    Raises:
        UserError: A key that can have changed what was learned is missing or no longer exists; names them.
    """
    flat = with_current_names(flatten(recorded))
    defaults = default_settings(str(flat.get("model.name", "")), str(flat.get("env.kind", "")))
    if defaults is None:  # an unknown model or environment: validation says so
        return unflatten(flat)
    missing, removed = sorted(defaults.keys() - flat.keys()), sorted(flat.keys() - defaults.keys())
    lines = [f"{key}: is missing; the default is {defaults[key]}" for key in missing if can_change_learning(key)]
    lines += [f"{key} = {flat[key]}: no longer exists" for key in removed if can_change_learning(key)]
    if lines:
        more = [f"and {len(lines) - _SHOWN} more; the file may have been cut off"] if len(lines) > _SHOWN else []
        listed = "\n".join(f"  {line}" for line in [*lines[:_SHOWN], *more])
        raise UserError(
            f"{subject}: another version of this program wrote it:\n{listed}\n"
            "These keys can change what a run learns, so no default is put in their place. Use the version that made "
            "the run; or, if you know what that version did, write the missing keys with their values into the file "
            "and remove the others."
        )
    return unflatten({key: flat.get(key, default) for key, default in defaults.items()})


@functools.cache
def default_settings(model: str, env: str) -> FlatDict | None:
    """Return today's default of every key, or None if there is no such model or environment.

    Args:
        model: Name of an option of ``conf/model``.
        env: Name of an option of ``conf/env``: the kind of the environment.
    """
    overrides = [f"{group}={name}" for group, name in (("model", model), ("env", env)) if name]
    try:
        return flatten(OmegaConf.to_container(compose_settings(tuple(overrides)), resolve=True))
    except HydraException:
        return None
