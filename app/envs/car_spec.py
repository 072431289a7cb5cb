"""What every car shows, simulated or not; the trainer needs to know it without having the game."""

from app.config.schema import TrackEnvConfig, TrackmaniaConfig
from app.envs.spec import ObservationSpec

_ACTIONS = 3  # gas, brake, steer
_PEDALS = (0, 1)
_GEARS, _RPM = 5.0, 10_000.0  # about the most there is


def car_spec(cfg: TrackEnvConfig | TrackmaniaConfig) -> ObservationSpec:
    """Return the observation contract: sensors are speed, gear, rpm and the lidar."""
    size, beams = cfg.image_size, cfg.lidar_beams
    return ObservationSpec(
        sensors=3 + beams,
        action_dim=_ACTIONS,
        action_history=cfg.action_history,
        image_shape=(cfg.image_history, size, size) if cfg.images else None,
        window=cfg.window,
        window_sensors=(0, *range(3, 3 + beams)),
        sensor_scale=(cfg.top_speed, _GEARS, _RPM, *[cfg.lidar_range] * beams),
        reward_scale=cfg.reward_scale,
        one_sided_actions=_PEDALS,
    )
