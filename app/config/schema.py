"""The typed, frozen configuration: one field for every key of ``conf/``.

The YAML files hold every default; this module holds types and bounds only, so a value that is
missing, misspelt or out of range is an error before anything is built. Nothing here imports torch.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_FROZEN = ConfigDict(extra="forbid", allow_inf_nan=False)

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
LONGEST_NAME = 100
Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=LONGEST_NAME,
        description=f"at most {LONGEST_NAME} letters, digits, dots, dashes and underscores",
    ),
]

Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")]


@dataclass(frozen=True, config=_FROZEN)
class ModelConfig:
    """Which actor-critic, and the widths of its trunk."""

    name: Literal["droq_contextual", "droq", "shared_backbone", "mlp"]
    image_dim: Positive  # output of the CNN backbone
    float_dim: Positive  # width of the float branch
    fused_dim: Positive | None  # gated fusion to this width; null: concatenate both branches

    @property
    def contextual(self) -> bool:
        """Whether the model has a context encoder and FiLM."""
        return self.name == "droq_contextual"


@dataclass(frozen=True, config=_FROZEN)
class NormConfig:
    """Normalisation of the CNN (fault 2)."""

    kind: Literal["group", "batch", "layer", "none"]
    groups: Positive


@dataclass(frozen=True, config=_FROZEN)
class StageConfig:
    """One stage of the backbone: a run of (fused) inverted-residual blocks."""

    expand: Positive
    channels: Positive
    blocks: Positive
    stride: Annotated[int, Field(ge=1, le=2)]
    se: bool  # squeeze-and-excitation, depthwise instead of fused


@dataclass(frozen=True, config=_FROZEN)
class BackboneConfig:
    """The EfficientNetV2-style CNN."""

    name: Literal["effnet_nano", "effnet_s"]
    stem_channels: Positive
    stages: Annotated[tuple[StageConfig, ...], Field(min_length=1)]
    head_channels: Positive


@dataclass(frozen=True, config=_FROZEN)
class EncoderConfig:
    """The context encoder over the window of past steps (fault 3 is its dropout)."""

    dropout: Dropout
    stream_dim: Positive
    layers: Positive
    heads: Positive
    ffn_dim: Positive
    context_dim: Positive  # GRU width and width of the context z
    pool_queries: Positive
    film_hidden_dim: Positive
    prediction_horizons: Annotated[tuple[Positive, ...], Field(min_length=1)]  # env steps
    prediction_weight: NonNegative


@dataclass(frozen=True, config=_FROZEN)
class ActorConfig:
    """The policy head (faults 1, 4 and 5)."""

    detach: bool
    log_std_min: float
    log_std_max: float
    hidden_dim: Positive
    num_layers: Positive


@dataclass(frozen=True, config=_FROZEN)
class CriticConfig:
    """The ensemble of Q-heads."""

    num_heads: Positive
    hidden_dim: Positive
    num_layers: Positive
    dropout: Dropout
    layer_norm: bool
    spectral_norm: bool


@dataclass(frozen=True, config=_FROZEN)
class AgentConfig:
    """SAC/DroQ: discount, targets, entropy and one optimiser per part."""

    gamma: Annotated[float, Field(ge=0, lt=1)]
    polyak: Annotated[float, Field(ge=0, lt=1)]
    n_step: Positive
    alpha: PositiveFloat  # start value of the entropy coefficient
    alpha_floor: NonNegative
    learn_entropy_coef: bool
    target_entropy: float | None  # null: minus the number of action dimensions
    lr_actor: PositiveFloat
    lr_critic: PositiveFloat
    lr_backbone: PositiveFloat  # the CNN and its way into the fusion
    lr_entropy: PositiveFloat
    betas_actor: tuple[Beta, Beta]
    betas_critic: tuple[Beta, Beta]
    weight_decay_actor: NonNegative
    weight_decay_critic: NonNegative
    grad_clip: PositiveFloat | None  # global norm per optimiser; null: none


@dataclass(frozen=True, config=_FROZEN)
class ReplayConfig:
    """The replay ring."""

    capacity: Positive  # rows, one per environment step and one per reset
    batch_size: Positive


@dataclass(frozen=True, config=_FROZEN)
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


@dataclass(frozen=True, config=_FROZEN)
class TrackConfig:
    """The family of random closed tracks."""

    length: PositiveFloat  # m
    points: Annotated[int, Field(ge=16)]
    half_width: PositiveFloat  # m
    roughness: NonNegative
    min_radius: PositiveFloat  # m
    clearance: PositiveFloat  # m


@dataclass(frozen=True, config=_FROZEN)
class SimConfig:
    """The built-in track simulator."""

    kind: Literal["sim"]
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
    car: CarConfig
    track: TrackConfig


@dataclass(frozen=True, config=_FROZEN)
class GymConfig:
    """Any Gymnasium task with Box observations and Box actions."""

    kind: Literal["gym"]
    name: Name
    id: str
    max_steps: Positive | None  # null: the task's own limit


EnvConfig = Annotated[SimConfig | GymConfig, Field(discriminator="kind")]


@dataclass(frozen=True, config=_FROZEN)
class TrainingConfig:
    """The schedule, in the terms of tmrl's ``TrainingOffline``."""

    epochs: Positive
    rounds: Positive
    steps: Positive  # updates per round
    max_training_steps_per_env_step: PositiveFloat
    start_training: Positive  # environment steps before the first update
    update_model_interval: Positive  # updates between broadcasts of the actor
    eval_episodes: Positive  # deterministic evaluation episodes at the end of an epoch
    eval_episodes_stochastic: Positive
    checkpoint_interval_s: NonNegative  # seconds between checkpoints; one is written at every epoch's end, too
    init_from: str | None  # folder of a run whose best weights a new run begins with

    @property
    def updates_per_epoch(self) -> int:
        """Updates between two evaluations."""
        return self.rounds * self.steps

    @property
    def updates(self) -> int:
        """Updates of the whole run."""
        return self.epochs * self.updates_per_epoch


@dataclass(frozen=True, config=_FROZEN)
class LoggerConfig:
    """What a person gets to see."""

    tensorboard: bool
    progress: Literal["auto", "bar", "plain", "none"]
    curves: bool
    video: bool
    video_size: Annotated[int, Field(ge=64, le=2048)]  # pixels


@dataclass(frozen=True, config=_FROZEN)
class RestartConfig:
    """What ``+restart=clean`` or ``+restart=archive`` clears before training."""

    mode: Literal["delete", "archive"]
    targets: Annotated[tuple[Literal["study", "replay", "checkpoints", "weights"], ...], Field(min_length=1)]
    dry_run: bool  # list with sizes and stop
    tmrl_run: str | None  # name of a run of tmrl's own whose leavings in TmrlData go as well


@dataclass(frozen=True, config=_FROZEN)
class Config:
    """Everything a run is made from."""

    seed: Seed
    device: Device
    threads: Count  # 0: every core
    log_std_min: float
    run_name: Name
    runs_dir: str
    sweeps_dir: str
    objective: Literal["return_test_det"]
    model: ModelConfig
    norm: NormConfig
    backbone: BackboneConfig
    encoder: EncoderConfig
    actor: ActorConfig
    critic: CriticConfig
    agent: AgentConfig
    replay: ReplayConfig
    env: EnvConfig
    training: TrainingConfig
    logger: LoggerConfig
    restart: RestartConfig | None  # null without +restart=clean


@dataclass(frozen=True, config=_FROZEN)
class EvaluateConfig:
    """What ``app/evaluate.py`` is asked to do."""

    run: str  # folder of a run
    tracks: Annotated[tuple[Count, ...], Field(min_length=1)] | None  # track seeds; null: those of the run
    episodes: Positive  # starts, spread over tracks and lap
    episodes_stochastic: Count
    device: Device
    threads: Count
    seed: Seed
    video: bool
    video_size: Annotated[int, Field(ge=64, le=2048)]
