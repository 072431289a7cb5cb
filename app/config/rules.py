"""Rules between several keys, which no single type can express."""

import ipaddress
import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise

from app.config.faults import fault_warnings
from app.config.schema import Config
from app.core.errors import UserError

MIN_PASSWORD_LENGTH = 8  # characters


def problems(config: Config) -> list[str]:
    """Return a sentence for every rule that the configuration breaks."""
    return [*recorded_problems(config), *(problem for rule in _RULES_OF_A_START for problem in rule(config))]


def recorded_problems(config: Config) -> list[str]:
    """Return the same for a recorded configuration: without the rules about the start of its processes."""
    return [problem for rule in _RULES_OF_A_RUN for problem in rule(config)]


def _log_std(config: Config) -> list[str]:
    low, high = config.actor.log_std_min, config.actor.log_std_max
    if low < high:
        return []
    key = "log_std_min" if low == config.log_std_min else "actor.log_std_min"
    return [f"{key} = {low:g}: must be less than actor.log_std_max = {high:g}. Use log_std_min=-20."]


def _model_needs(config: Config) -> list[str]:
    if config.model.name == "mlp" or not config.env.plain_vector:
        return []
    return [
        f"model = {config.model.name}: needs the images or the lidar of a simulated car, and "
        f"env.id = {config.env.id} gives a plain vector. Use model=mlp, or env=sim, sim_lidar or car_racing."
    ]


def _norm_groups(config: Config) -> list[str]:
    if config.norm.kind != "group":
        return []
    backbone = config.backbone
    widths = {backbone.stem_channels, backbone.head_channels, *(stage.channels for stage in backbone.stages)}
    indivisible = sorted(width for width in widths if width % config.norm.groups)
    if not indivisible:
        return []
    return [
        f"norm.groups = {config.norm.groups}: must divide every channel count of backbone={backbone.name}, "
        f"and does not divide {', '.join(map(str, indivisible))}. Use norm.groups=1."
    ]


def _batch_norm(config: Config) -> list[str]:
    """In training, batch norm needs more than one value of a channel: several images, or a map of several pixels."""
    has_images = config.env.images and config.model.name != "mlp"
    if not has_images or config.norm.kind != "batch" or config.replay.batch_size > 1:
        return []
    halvings = 1 + sum(stage.stride == 2 for stage in config.backbone.stages)
    if math.ceil(config.env.image_size / 2**halvings) > 1:
        return []
    return [
        "norm = batch: has nothing to average over with replay.batch_size = 1, because "
        f"backbone={config.backbone.name} shrinks images of {config.env.image_size} pixels to one. "
        "Use replay.batch_size=2 or more, or norm=group."
    ]


def _attention_heads(config: Config) -> list[str]:
    heads, width = config.encoder.heads, config.encoder.stream_dim
    if width % heads == 0:
        return []
    return [f"encoder.heads = {heads}: must divide encoder.stream_dim = {width}. Use encoder.heads=4."]


def _film_widths(config: Config) -> list[str]:
    """One FiLM generator modulates policy and Q-heads, so their layers must have the same shape."""
    if not config.model.contextual:
        return []
    pairs = [(key, getattr(config.actor, key), getattr(config.critic, key)) for key in ("hidden_dim", "num_layers")]
    return [
        f"actor.{key} = {actor}: must equal critic.{key} = {critic} with model=droq_contextual, "
        "whose FiLM modulates both. Set both to the same value."
        for key, actor, critic in pairs
        if actor != critic
    ]


def _replay_size(config: Config) -> list[str]:
    capacity, batch, start = config.replay.capacity, config.replay.batch_size, config.training.start_training
    found = []
    if batch > capacity:
        found.append(f"replay.batch_size = {batch}: must be at most replay.capacity = {capacity}. Use a smaller batch.")
    if capacity < (least := config.env.longest_history + 2):
        found.append(
            f"replay.capacity = {capacity}: must be at least {least} to hold one whole transition. Use 100000."
        )
    if start > capacity:
        found.append(
            f"training.start_training = {start}: must be at most replay.capacity = {capacity}, or the "
            "first steps are overwritten before the first update. Use a larger replay.capacity."
        )
    return found


def _no_repeats(config: Config) -> list[str]:
    return [problem for key, values in _unique_lists(config) if (problem := _repeats(key, values)) is not None]


def require_unique(key: str, values: Sequence[object]) -> None:
    """Raise if a list names a value twice.

    Raises:
        UserError: It does.
    """
    if (problem := _repeats(key, values)) is not None:
        raise UserError(problem)


def _repeats(key: str, values: Sequence[object]) -> str | None:
    if len(set(values)) == len(values):
        return None
    return f"{key} = [{', '.join(map(str, values))}]: must not name a value twice. Remove the repeated ones."


def _unique_lists(config: Config) -> list[tuple[str, tuple[int, ...]]]:
    return [
        ("encoder.prediction_horizons", config.encoder.prediction_horizons),
        ("env.train_tracks", config.env.train_tracks),
        ("env.eval_tracks", config.env.eval_tracks),
    ]


def _return_range(config: Config) -> list[str]:
    span = config.env.return_range
    if span is None and config.objective == "stability":
        return [
            "env.return_range = null: must be the lowest and the highest return to expect with objective=stability. "
            "Set it, such as env.return_range=[-1600,-100] for Pendulum-v1, or use objective=return_test_det."
        ]
    if span is not None and span[0] >= span[1]:
        return [f"env.return_range = {list(span)}: the first number must be less than the second. Swap them."]
    return []


def _value_support(config: Config) -> list[str]:
    """An explicit support must be a range that includes the initial value."""
    support, start = config.value.support, config.critic.initial_q
    if support is None or config.value.kind != "categorical":
        return []
    low, high = support
    if not low < high:
        return [
            f"value.support = {list(support)}: must be the lowest and the highest value. "
            "Use value.support=null to compute it from the rewards."
        ]
    if not low <= start <= high:
        return [
            f"critic.initial_q = {start:g}: is outside value.support = {list(support)}. Widen the support, or use "
            "critic.initial_q=0."
        ]
    return []


def _weights(config: Config) -> list[str]:
    total = math.fsum(asdict(config.health.weights).values())
    if math.isclose(total, 1.0, abs_tol=1e-6):
        return []
    return [f"health.weights: must sum to 1, and the five sum to {total:g}. Change one of them by {1 - total:+g}."]


def _health_limits(config: Config) -> list[str]:
    """Lists of limits must be in ascending order."""
    lists = {"alpha_band": config.health.alpha_band, "loss_factors": config.health.loss_factors}
    return [
        f"health.{key} = {list(values)}: each number must be greater than the one before. Sort them."
        for key, values in lists.items()
        if any(low >= high for low, high in pairwise(values))
    ]


def _password(config: Config) -> list[str]:
    password = config.network.password
    if config.role == "local" or (password is None and config.role == "all"):
        return []
    if password is None:
        found = f"network.password = null: is needed with role={config.role}"
    elif len(password) < MIN_PASSWORD_LENGTH:
        found = f"network.password: has {len(password)} characters"
    else:
        return []
    return [
        f"{found}, and must be the same {MIN_PASSWORD_LENGTH} or more characters on every machine. Set it with the "
        "variable TRACKMANIA_PASSWORD, which keeps it out of the shell's history."
    ]


def _unencrypted(config: Config) -> list[str]:
    """Without TLS, the password may only be sent on this machine."""
    key = {"server": "bind", "worker": "host", "trainer": "host"}.get(config.role)
    if key is None or config.network.tls or _is_loopback(address := getattr(config.network, key)):
        return []
    return [
        f"network.{key} = {address}: lets data leave this machine, and with network.tls = false everybody in between "
        "could read it, the password included. Make keys once with python app/make_keys.py, copy them, and add "
        "network.tls=true on every machine."
    ]


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _real_time(config: Config) -> list[str]:
    if not config.env.real_time:
        return []
    if config.role == "local":
        return [
            f"role = local: env={config.env.name} does not wait while the networks are updated, so they need separate "
            "processes. Use role=all workers=1 on one machine, or role=server, worker and trainer."
        ]
    if config.role == "all" and config.workers > 1:
        return [f"workers = {config.workers}: a machine runs one game only. Use workers=1."]
    return []


_RULES_OF_A_RUN = (
    _log_std, _model_needs, _norm_groups, _batch_norm, _attention_heads, _film_widths, _replay_size, _no_repeats,
    _return_range, _value_support, _weights, _health_limits,
)  # fmt: skip
_RULES_OF_A_START = (_password, _unencrypted, _real_time)


def warnings(config: Config) -> list[str]:
    """Return a sentence for every value that is allowed and known to be unwise."""
    env, found = config.env, fault_warnings(config)
    if config.model.name == "mlp" and env.images:
        found.append("model = mlp ignores images: env.images=false gives the same result and is faster.")
    if env.lap_return is not None and env.return_range and env.return_range[1] != env.lap_return:
        found.append(
            f"env.return_range[1] = {env.return_range[1]:g} is not what a full lap scores, {env.lap_return:g} "
            "(env.track.length × env.reward_per_metre): the health score measures by it."
        )
    return found
