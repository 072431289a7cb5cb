"""The typed, frozen configuration: one field for every key of ``conf/``.

The YAML files hold every default; this module holds types and bounds only, so a value that is
missing, misspelt or out of range is an error before anything is built. Nothing here imports torch.
"""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from app.config.commands import ExportConfig as ExportConfig
from app.config.commands import MakeKeysConfig as MakeKeysConfig
from app.config.commands import SweepReportConfig as SweepReportConfig
from app.config.commands import ValidateConfig as ValidateConfig
from app.config.fields import FROZEN, Beta, Count, Device, Dropout, Name, NonNegative, Positive, PositiveFloat, Seed
from app.config.fields import LONGEST_NAME as LONGEST_NAME
from app.config.fields import StudyName as StudyName
from app.config.schema_env import CarConfig as CarConfig
from app.config.schema_env import CarRacingConfig as CarRacingConfig
from app.config.schema_env import EnvConfig
from app.config.schema_env import GymConfig as GymConfig
from app.config.schema_env import OpenplanetConfig as OpenplanetConfig
from app.config.schema_env import SimConfig as SimConfig
from app.config.schema_env import TrackConfig as TrackConfig
from app.config.schema_env import TrackEnvConfig as TrackEnvConfig
from app.config.schema_env import TrackmaniaConfig as TrackmaniaConfig
from app.config.schema_health import HealthConfig
from app.config.schema_network import NetworkConfig as NetworkConfig
from app.config.schema_network import Role
from app.config.schema_pruner import PrunerConfig


@dataclass(frozen=True, config=FROZEN)
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


@dataclass(frozen=True, config=FROZEN)
class NormConfig:
    """Normalisation of the CNN (fault 2)."""

    kind: Literal["group", "batch", "layer", "none"]
    groups: Positive


@dataclass(frozen=True, config=FROZEN)
class StageConfig:
    """One stage of the backbone: a run of (fused) inverted-residual blocks."""

    expand: Positive
    channels: Positive
    blocks: Positive
    stride: Annotated[int, Field(ge=1, le=2)]
    se: bool  # squeeze-and-excitation, depthwise instead of fused


@dataclass(frozen=True, config=FROZEN)
class BackboneConfig:
    """The EfficientNetV2-style CNN."""

    name: Literal["effnet_pico", "effnet_nano", "effnet_s"]
    stem_channels: Positive
    stages: Annotated[tuple[StageConfig, ...], Field(min_length=1)]
    head_channels: Positive


@dataclass(frozen=True, config=FROZEN)
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


@dataclass(frozen=True, config=FROZEN)
class ActorConfig:
    """The policy head (faults 1, 4 and 5)."""

    detach: bool
    log_std_min: float
    log_std_max: float
    hidden_dim: Positive
    num_layers: Positive


@dataclass(frozen=True, config=FROZEN)
class CriticConfig:
    """The ensemble of Q-heads."""

    num_heads: Positive
    hidden_dim: Positive
    num_layers: Positive
    dropout: Dropout
    layer_norm: bool
    spectral_norm: bool
    initial_q: float  # of every state and action, before any update


@dataclass(frozen=True, config=FROZEN)
class ValueConfig:
    """How the Q-heads represent a value, and with it the critic's loss."""

    kind: Literal["categorical", "scalar"]
    bins: Annotated[int, Field(ge=3, le=4096)]
    sigma: PositiveFloat  # standard deviation of the smoothed target, as a share of a bin
    support: tuple[float, float] | None  # lowest and highest value; null: what the rewards allow


@dataclass(frozen=True, config=FROZEN)
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
    policy_ema: Annotated[float, Field(ge=0, lt=1)]  # share of the old averaged weights kept at each update
    deployed_policy: Literal["averaged", "raw"]  # which policy is judged, kept as best and exported


@dataclass(frozen=True, config=FROZEN)
class ReplayConfig:
    """The replay ring."""

    capacity: Positive  # rows, one per environment step and one per reset
    batch_size: Positive
    recent_share: Annotated[float, Field(ge=0, le=1)]  # of every batch, drawn from the newest rows alone
    recent_rows: Positive  # how many those are
    keep: bool  # of a trial that has finished; that of a single run always stays


@dataclass(frozen=True, config=FROZEN)
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
    eval_episodes_other: Count  # deterministic, of the policy that is not deployed
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


@dataclass(frozen=True, config=FROZEN)
class LoggerConfig:
    """What a person gets to see."""

    tensorboard: bool
    progress: Literal["auto", "bar", "plain", "none"]
    curves: bool
    video: bool
    video_size: Annotated[int, Field(ge=64, le=2048)]  # pixels


@dataclass(frozen=True, config=FROZEN)
class RestartConfig:
    """What ``+restart=clean`` or ``+restart=archive`` clears before training."""

    mode: Literal["delete", "archive"]
    targets: Annotated[tuple[Literal["study", "replay", "checkpoints", "weights"], ...], Field(min_length=1)]
    dry_run: bool  # list with sizes and stop
    tmrl_run: str | None  # name of a run of tmrl's own whose leavings in TmrlData go as well


@dataclass(frozen=True, config=FROZEN)
class Config:
    """Everything a run is made from."""

    seed: Seed
    device: Device
    threads: Count  # 0: one or every core, whichever is faster
    log_std_min: float
    role: Role
    workers: Positive  # that role=all starts
    run_name: Name
    runs_dir: str
    sweeps_dir: str
    objective: Literal["return_test_det", "stability"]
    model: ModelConfig
    norm: NormConfig
    backbone: BackboneConfig
    encoder: EncoderConfig
    actor: ActorConfig
    critic: CriticConfig
    value: ValueConfig
    agent: AgentConfig
    replay: ReplayConfig
    env: EnvConfig
    training: TrainingConfig
    health: HealthConfig
    pruner: PrunerConfig
    logger: LoggerConfig
    network: NetworkConfig
    restart: RestartConfig | None  # null without +restart=clean

    def to_keep(self) -> "Config":
        """Return what a file of the run may hold: no secrets, and nothing that belongs to one start only."""
        return replace(self, role="local", network=self.network.without_secrets(), restart=None)


@dataclass(frozen=True, config=FROZEN)
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
