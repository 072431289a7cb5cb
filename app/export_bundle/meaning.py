"""What the numbers of an observation and an action stand for, in words."""

from app.config.schema import EnvConfig, GymConfig, TrackmaniaConfig

_GAME = {
    "motion": "speed, gear and rpm as tmrl's plugin sends them",
    "unit": "pixels of the game's window",
    "view": "the game's window, shrunk",
    "late": "; an action acts one step late",
}
_SIMULATED = {
    "motion": "speed (m/s), gear, rpm",
    "unit": "m",
    "view": "the road from above, 64 m wide, heading up, three quarters of it ahead",
    "late": "",
}


def meaning(env: EnvConfig) -> dict[str, str]:
    """Return a sentence for every part that somebody must provide or obey, and the duration of a step."""
    if isinstance(env, GymConfig):
        return {
            "sensors": f"the observation of {env.id}, flattened",
            "action": f"that of {env.id}, each component rescaled from its bounds to [-1, 1]",
        }
    words = _GAME if isinstance(env, TrackmaniaConfig) else _SIMULATED
    images = {"images": f"grey, {env.image_size} × {env.image_size}, {words['view']}"} if env.images else {}
    return {
        "sensors": f"{words['motion']}, {env.lidar_beams} lidar beams from left to right ({words['unit']})",
        **images,
        "reward": "that of the step, as in training: the last column of the window",
        "action": "gas, brake, steer in [-1, 1]: gas and brake act above 0, steer is right when positive",
        "step": f"{env.step_s:g} s{words['late']}",
    }
