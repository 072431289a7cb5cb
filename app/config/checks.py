"""Rules between several keys, which no single type can hold."""

from app.config.schema import Config, SimConfig


def problems(config: Config) -> list[str]:
    """Return a sentence for every rule that the configuration breaks."""
    rules = (_log_std, _model_needs, _norm_groups, _attention_heads, _film_widths, _replay_size, _no_repeats)
    return [problem for rule in rules for problem in rule(config)]


def _log_std(config: Config) -> list[str]:
    low, high = config.actor.log_std_min, config.actor.log_std_max
    if low < high:
        return []
    key = "log_std_min" if low == config.log_std_min else "actor.log_std_min"
    return [f"{key} = {low:g}: must be less than actor.log_std_max = {high:g}. Use log_std_min=-20."]


def _model_needs(config: Config) -> list[str]:
    if config.model.name == "mlp" or isinstance(config.env, SimConfig):
        return []
    return [
        f"model = {config.model.name}: needs the images or the lidar of a simulated car, and "
        f"env.id = {config.env.id} gives a plain vector. Use model=mlp, or one of env=sim and env=sim_lidar."
    ]


def _norm_groups(config: Config) -> list[str]:
    if config.norm.kind != "group":
        return []
    backbone = config.backbone
    widths = {backbone.stem_channels, backbone.head_channels, *(stage.channels for stage in backbone.stages)}
    odd = sorted(width for width in widths if width % config.norm.groups)
    if not odd:
        return []
    return [
        f"norm.groups = {config.norm.groups}: must divide every channel count of backbone={backbone.name}, "
        f"and does not divide {', '.join(map(str, odd))}. Use norm.groups=1."
    ]


def _attention_heads(config: Config) -> list[str]:
    heads, width = config.encoder.heads, config.encoder.stream_dim
    if width % heads == 0:
        return []
    return [f"encoder.heads = {heads}: must divide encoder.stream_dim = {width}. Use encoder.heads=4."]


def _film_widths(config: Config) -> list[str]:
    """One FiLM generator modulates policy and Q-heads: their layers must be alike."""
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
    if capacity < (least := _longest_history(config) + 2):
        found.append(
            f"replay.capacity = {capacity}: must be at least {least} to hold one whole transition. Use 100000."
        )
    if start > capacity:
        found.append(
            f"training.start_training = {start}: must be at most replay.capacity = {capacity}, or the "
            "first steps are overwritten before they are learned from. Use a larger replay.capacity."
        )
    return found


def _no_repeats(config: Config) -> list[str]:
    return [
        f"{key} = {list(values)}: must not name a value twice. Remove the repeated ones."
        for key, values in _unique_lists(config)
        if len(set(values)) < len(values)
    ]


def _unique_lists(config: Config) -> list[tuple[str, tuple[int, ...]]]:
    lists = [("encoder.prediction_horizons", config.encoder.prediction_horizons)]
    if isinstance(config.env, SimConfig):
        lists += [("env.train_tracks", config.env.train_tracks), ("env.eval_tracks", config.env.eval_tracks)]
    return lists


def _longest_history(config: Config) -> int:
    env = config.env
    return max(env.window, env.action_history, env.image_history) if isinstance(env, SimConfig) else 0


def warnings(config: Config) -> list[str]:
    """Return a sentence for every value that is allowed and known to be unwise."""
    agent, training, env = config.agent, config.training, config.env
    found = []
    if agent.gamma < 0.99:
        horizon = 1 / (1 - agent.gamma)
        found.append(f"agent.gamma = {agent.gamma:g} looks {horizon:.0f} steps ahead: use 0.99 to 0.999.")
    for part, betas in (("actor", agent.betas_actor), ("critic", agent.betas_critic)):
        if config.model.name != "mlp" and betas[1] >= 0.999:
            found.append(f"agent.betas_{part}[1] = {betas[1]:g} remembers too long: use 0.99 to 0.995.")
    utd = training.max_training_steps_per_env_step
    if utd > 8:
        found.append(
            f"training.max_training_steps_per_env_step = {utd:g} overfits the shared backbone to the latest "
            "batch: use 2 to 8."
        )
    if config.model.name == "mlp" and isinstance(env, SimConfig) and env.images:
        found.append("model = mlp does not look at images: env=sim_lidar gives it the same and is faster.")
    return found
