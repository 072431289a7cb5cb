"""Configuration keys that were renamed, removed or added."""

# Old key: new key. `updates_per_epoch` is the product of the two old ones.
RENAMED_KEYS: dict[str, str] = {
    "agent.alpha_floor": "agent.alpha_min",
    "agent.learn_entropy_coef": "agent.auto_alpha",
    "health.last": "health.objective_window",
    "health.recent": "health.consistency_window",
    "health.standing": "health.standstill_share",
    "health.collapse.q_after": "health.collapse.q_after_updates",
    "network.lead": "network.max_steps_ahead",
    "network.patience_s": "network.timeout_s",
    "replay.keep": "replay.keep_after_trial",
    "training.rounds": "training.updates_per_epoch",
    "training.steps": "training.updates_per_epoch",
}

# Added key: the value with which the program does what it did before the key existed.
ADDED_KEYS: dict[str, float | None] = {"agent.deterministic_share": 0.0, "training.demonstrations": None}

# The same for keys that only one kind of environment has, by that kind.
ADDED_KEYS_OF_ENV: dict[str, dict[str, None]] = {"gym": {"env.kwargs": None}}

# Removed key: reason and what to do.
REMOVED_KEYS: dict[str, str] = {
    "onnx": "the ONNX file is the exported actor itself, so it is always written. Leave the key out.",
}


def current_name(key: str) -> str:
    """Return the name that a key has now; a key that became a factor of another one keeps its own."""
    new = RENAMED_KEYS.get(key, key)
    return new if list(RENAMED_KEYS.values()).count(new) < 2 else key


def renaming(key: str) -> str | None:
    """Return the sentence that refuses an old key; None if the key was neither renamed nor removed."""
    if key in REMOVED_KEYS:
        return f"{key} no longer exists: {REMOVED_KEYS[key]}"
    new = RENAMED_KEYS.get(key)
    if new is None:
        return None
    factors = [old for old, name in RENAMED_KEYS.items() if name == new]
    value = f" = {' × '.join(old.rpartition('.')[2] for old in factors)}" if len(factors) > 1 else ""
    return f"{key} was renamed: use {new}{value}."
