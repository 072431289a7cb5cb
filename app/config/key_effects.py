"""Keys of the configuration by what they can change: what is learned, how it is judged, or neither."""

# Keys of the environment that no data and no network depend on.
EVALUATION_ONLY = ("env.eval_tracks", "env.return_range")
MACHINE_ONLY = ("env.reward_file", "env.openplanet.host", "env.openplanet.port", "env.openplanet.timeout_s")

SECRET_KEYS = ("network.password",)  # whose values are neither shown nor recorded

EPOCHS = "training.epochs"  # more of it continues a run
INIT_FROM = "training.init_from"  # a place, and the beginning of what is learned

# Beginnings of the keys that cannot change what a run learns: where it runs and what it shows, how it is executed, and
# how its policy is judged. Every other key can, a key that this version does not know included.
PLACE_KEYS = (
    "runs_dir", "sweeps_dir", "run_name", "role", "workers", "network.", "logger.", "restart", INIT_FROM,
)  # fmt: skip
_EXECUTION_KEYS = (
    "device", "threads", "cuda_graphs", "pruner.", "replay.keep_after_trial", "training.checkpoint_interval_s",
    *MACHINE_ONLY,
)  # fmt: skip
_EVALUATION_KEYS = ("objective", "health.", "training.eval_episodes", *EVALUATION_ONLY)
_NOT_LEARNED = PLACE_KEYS + _EXECUTION_KEYS + _EVALUATION_KEYS
_NOT_IN_RESULT = (*PLACE_KEYS, *_EXECUTION_KEYS, "health.", "training.eval_episodes_other")


def can_change_learning(key: str) -> bool:
    """Return whether a key may change what a run learns; this is assumed of a key that this version does not know."""
    return not key.startswith(_NOT_LEARNED)


def can_change_result(key: str) -> bool:
    """Return whether a key may change the result of a finished run: what it learned, for how long, or its judgement."""
    return not key.startswith(_NOT_IN_RESULT)


def is_part_of_name(key: str) -> bool:
    """Return whether runs that differ in a key, or in a whole group of keys, get folders of their own.

    Keys that may change while a run continues to learn the same are no part of its name.
    """
    return (can_change_learning(f"{key}.") and key != EPOCHS) or key == INIT_FROM
