"""The section ``env`` of the configuration: one dataclass for every kind of environment."""

from dataclasses import field
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from app.config.types import FROZEN, Arguments, Count, Host, Name, NonNegative, Port, Positive, PositiveFloat

# Return of an episode without any progress and of a perfect one; null: unknown, so there is no health score.
ReturnRange = tuple[float, float] | None


@dataclass(frozen=True, config=FROZEN)
class CarConfig:
    """Physics of the simulated car (SI units)."""

    engine: PositiveFloat  # m/s² at standstill, falls linearly to 0 at top_speed
    top_speed: PositiveFloat  # m/s
    brake: PositiveFloat  # m/s²
    grip: PositiveFloat  # radius of the friction circle, m/s²
    drag_rolling: NonNegative  # m/s²
    drag_air: NonNegative  # 1/m
    wheelbase: PositiveFloat  # m
    steer_lock: PositiveFloat  # rad
    steer_rate: PositiveFloat  # rad/s
    yaw_lag: PositiveFloat  # 1/s


@dataclass(frozen=True, config=FROZEN)
class TrackConfig:
    """The family of random closed tracks."""

    length: PositiveFloat  # m
    points: Annotated[int, Field(ge=16)]
    half_width: PositiveFloat  # m
    roughness: NonNegative
    min_radius: PositiveFloat  # m
    clearance: PositiveFloat  # m


@dataclass(frozen=True, config=FROZEN)
class TrackEnvConfig:
    """Settings of every simulated car on closed tracks that are generated from seeds.

    Each kind also has a ``top_speed`` in m/s.
    """

    name: Name
    images: bool
    image_size: Annotated[int, Field(ge=16, le=256)]  # pixels, 1 px/m at 64
    image_history: Positive
    action_history: Count
    window: Annotated[int, Field(ge=2)]
    lidar_beams: Annotated[int, Field(ge=2)]
    lidar_range: PositiveFloat  # m
    lidar_fov: Annotated[float, Field(gt=0, le=360)]  # degrees
    step_s: PositiveFloat
    substeps: Positive
    max_steps: Positive
    stall_steps: Positive
    stall_metres: PositiveFloat
    reward_per_metre: PositiveFloat
    random_start: bool
    train_tracks: Annotated[tuple[Count, ...], Field(min_length=1)]  # track seeds
    eval_tracks: Annotated[tuple[Count, ...], Field(min_length=1)]
    return_range: ReturnRange

    plain_vector: ClassVar[bool] = False  # whether the observation has neither lidar nor images
    real_time: ClassVar[bool] = False  # whether time passes between two actions

    @property
    def reward_scale(self) -> float:
        """Reward of a step at the top speed."""
        return self.reward_per_metre * self.top_speed * self.step_s

    @property
    def highest_reward(self) -> float:
        """Reward of a step at the top speed, which is hardly ever exceeded."""
        return self.reward_scale

    @property
    def longest_history(self) -> int:
        """Largest number of past steps in an observation."""
        return max(self.window, self.action_history, self.image_history)

    @property
    def video_fps(self) -> int:
        """Frames per second at which a video with one frame per step plays in real time."""
        return max(1, round(1 / self.step_s))


@dataclass(frozen=True, config=FROZEN)
class SimConfig(TrackEnvConfig):
    """The built-in track simulator."""

    kind: Literal["sim"]
    car: CarConfig
    track: TrackConfig

    @property
    def top_speed(self) -> float:
        """Top speed of the engine, m/s."""
        return self.car.top_speed

    @property
    def lap_return(self) -> float | None:
        """Return of a full lap."""
        return self.track.length * self.reward_per_metre


@dataclass(frozen=True, config=FROZEN)
class CarRacingConfig(TrackEnvConfig):
    """Gymnasium's CarRacing under the observation of the simulator."""

    kind: Literal["car_racing"]
    top_speed: PositiveFloat  # m/s; scales the observation to order 1, the car itself has no such limit

    lap_return: ClassVar[float | None] = None  # every track has a length of its own


@dataclass(frozen=True, config=FROZEN)
class GymConfig:
    """Any Gymnasium task with Box observations and Box actions."""

    kind: Literal["gym"]
    name: Name
    id: Annotated[str, Field(min_length=1, description="the id of a Gymnasium task, such as Pendulum-v1")]
    kwargs: Arguments | None = field(hash=False)  # of the task
    max_steps: Positive | None  # of an episode; null: the task's own limit
    return_range: ReturnRange

    # no car, no tracks
    plain_vector: ClassVar[bool] = True
    real_time: ClassVar[bool] = False
    images: ClassVar[bool] = False
    train_tracks: ClassVar[tuple[int, ...]] = ()
    eval_tracks: ClassVar[tuple[int, ...]] = ()
    lap_return: ClassVar[float | None] = None
    highest_reward: ClassVar[float | None] = None  # of a step; unknown before the warm-up
    longest_history: ClassVar[int] = 0
    video_fps: ClassVar[int] = 30


@dataclass(frozen=True, config=FROZEN)
class RewardConfig:
    """Parameters of tmrl's reward function."""

    finish: float
    per_step: float
    check_forward: Positive  # points
    check_backward: Positive  # points
    failure_countdown: Positive  # steps
    min_steps: Count
    max_stray: PositiveFloat  # m


@dataclass(frozen=True, config=FROZEN)
class OpenplanetConfig:
    """Address to which tmrl's plugin for OpenPlanet sends the car's data."""

    host: Host
    port: Port
    timeout_s: PositiveFloat


@dataclass(frozen=True, config=FROZEN)
class GameWindowConfig:
    """The window of the game."""

    title: str
    width: Annotated[int, Field(ge=128, le=7680)]  # pixels
    height: Annotated[int, Field(ge=128, le=4320)]


@dataclass(frozen=True, config=FROZEN)
class TrackmaniaConfig:
    """The real game."""

    kind: Literal["trackmania"]
    name: Name
    images: bool
    image_size: Annotated[int, Field(ge=16, le=256)]  # pixels
    image_history: Positive
    action_history: Positive  # an action takes effect one step late
    window: Annotated[int, Field(ge=2)]
    lidar_range: PositiveFloat  # pixels
    top_speed: PositiveFloat
    step_s: PositiveFloat
    start_obs_capture_s: PositiveFloat
    max_steps: Positive
    sleep_at_reset: NonNegative  # s
    return_range: ReturnRange
    reward_file: str
    reward_scale: PositiveFloat
    reward: RewardConfig
    openplanet: OpenplanetConfig
    game_window: GameWindowConfig

    lidar_beams: ClassVar[int] = 19  # of tmrl's lidar
    plain_vector: ClassVar[bool] = False
    real_time: ClassVar[bool] = True
    train_tracks: ClassVar[tuple[int, ...]] = ()  # the map that is loaded in the game
    eval_tracks: ClassVar[tuple[int, ...]] = ()
    lap_return: ClassVar[float | None] = None  # depends on the map

    @property
    def highest_reward(self) -> float:
        """Reward of a step at the top speed, which is hardly ever exceeded."""
        return self.reward_scale

    @property
    def longest_history(self) -> int:
        """Largest number of past steps in an observation."""
        return max(self.window, self.action_history, self.image_history)


EnvConfig = Annotated[SimConfig | CarRacingConfig | GymConfig | TrackmaniaConfig, Field(discriminator="kind")]
