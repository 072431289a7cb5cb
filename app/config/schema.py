"""The typed, frozen configuration of a run: one field for every key of ``conf/``.

The YAML files hold every default; this module holds types and bounds only, so that a value which is missing, misspelt
or out of range is an error before anything is built. Nothing here imports torch.
"""

from dataclasses import field, replace
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from app.config.schema_env import EnvConfig
from app.config.types import (
    FROZEN,
    AtLeastOne,
    BelowOne,
    Beta,
    Count,
    Device,
    Dropout,
    Host,
    Name,
    NonNegative,
    Port,
    Positive,
    PositiveFloat,
    Seed,
    Share,
)

Role = Literal["local", "server", "worker", "trainer", "all"]


@dataclass(frozen=True, config=FROZEN)
class ModelConfig:
    """The actor-critic and the widths of its trunk. The name decides which code is used."""

    name: Literal["droq_contextual", "droq", "shared_backbone", "mlp"]
    image_dim: Positive  # output of the CNN backbone
    float_dim: Positive  # width of the float branch
    fused_dim: Positive | None  # gated fusion to this width; null: concatenate both branches

    @property
    def contextual(self) -> bool:
        """True for the model with a context encoder and FiLM."""
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

    name: Name
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
    """Representation of a value by the Q-heads, which also decides the loss of the critic."""

    kind: Literal["categorical", "scalar"]
    bins: Annotated[int, Field(ge=3, le=4096)]
    sigma: PositiveFloat  # standard deviation of the smoothed target, as a share of a bin
    support: tuple[float, float] | None  # lowest and highest value; null: computed from rewards, discount and entropy


@dataclass(frozen=True, config=FROZEN)
class AgentConfig:
    """SAC/DroQ: discount, targets, entropy and one optimiser per part."""

    gamma: BelowOne
    polyak: BelowOne
    n_step: Positive
    deterministic_share: BelowOne  # of the training episodes
    alpha: PositiveFloat  # initial entropy coefficient
    alpha_min: NonNegative  # lower bound of a learned alpha
    auto_alpha: bool  # whether alpha is learned
    target_entropy: float | None  # null: minus the number of action dimensions
    lr_actor: PositiveFloat
    lr_critic: PositiveFloat
    lr_backbone: PositiveFloat  # of the CNN and of its projection before the fusion
    lr_entropy: PositiveFloat
    betas_actor: tuple[Beta, Beta]
    betas_critic: tuple[Beta, Beta]
    weight_decay_actor: NonNegative
    weight_decay_critic: NonNegative
    grad_clip: PositiveFloat | None  # global norm per optimiser; null: none
    policy_ema: BelowOne  # share of the old averaged weights kept at each update
    deployed_policy: Literal["averaged", "raw"]  # the policy that is judged, kept as best and exported


@dataclass(frozen=True, config=FROZEN)
class ReplayConfig:
    """The replay buffer, a ring of rows."""

    capacity: Positive  # rows, one per environment step and one per reset
    batch_size: Positive
    recent_share: Share  # of every batch, drawn from the newest rows only
    recent_rows: Positive  # number of newest rows for recent_share
    keep_after_trial: bool  # false: replay and checkpoints of a finished trial are deleted; single runs keep theirs


@dataclass(frozen=True, config=FROZEN)
class TrainingConfig:
    """The schedule, in the terms of tmrl's ``TrainingOffline``."""

    epochs: Positive
    updates_per_epoch: Positive  # an epoch ends with an evaluation
    max_training_steps_per_env_step: PositiveFloat
    start_training: Positive  # environment steps before the first update
    update_model_interval: Positive  # updates between broadcasts of the actor
    eval_episodes: Positive  # deterministic evaluation episodes at the end of an epoch
    eval_episodes_stochastic: Positive
    eval_episodes_other: Count  # deterministic, of the policy that is not deployed
    checkpoint_interval_s: NonNegative  # seconds between checkpoints; every epoch ends with one, too
    init_from: str | None  # folder of a run whose best weights a new run starts with
    demonstrations: str | None  # file or folder of episodes that a new run's replay starts with

    @property
    def updates(self) -> int:
        """Number of updates in the whole run."""
        return self.epochs * self.updates_per_epoch


@dataclass(frozen=True, config=FROZEN)
class WeightsConfig:
    """Weights of the parts of ``objective=stability``; they sum to 1."""

    loss_smoothness: NonNegative
    return_consistency: NonNegative
    entropy_health: NonNegative
    positive_trend: NonNegative
    performance: NonNegative


@dataclass(frozen=True, config=FROZEN)
class CollapseConfig:
    """Limits beyond which a run counts as collapsed."""

    low_score: Share
    low_epochs: Positive
    q_margin: NonNegative  # steps' worth of reward and entropy
    q_after_updates: Count
    stuck_epochs: Annotated[int, Field(ge=2)]
    stuck_share: NonNegative  # of the change of the stochastic return
    stuck_gap: NonNegative  # share of the stochastic return
    learned_share: Share  # of env.return_range
    lost_share: Share  # of the best return
    lost_epochs: Positive


@dataclass(frozen=True, config=FROZEN)
class HealthConfig:
    """The reaction to a collapse, the parts of the health score, and the limits."""

    on_collapse: Literal["warn", "stop"]
    objective_window: Positive  # deterministic evaluations
    consistency_window: Annotated[int, Field(ge=2)]  # deterministic evaluations
    weights: WeightsConfig
    loss_factors: tuple[AtLeastOne, AtLeastOne]  # change of a loss in an epoch: free of cost, and a jump
    clipped_targets: Share  # of the targets of an epoch; a larger share gives a warning
    standstill_share: PositiveFloat  # share of env.return_range
    measure_states: Count  # states on which the networks are measured after an epoch; 0: no measures
    alpha_band: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]
    collapse: CollapseConfig


@dataclass(frozen=True, config=FROZEN)
class PrunerConfig:
    """Comparison of a trial with the others at the same epoch, which may end it early."""

    kind: Literal["percentile", "none"]
    percentile: Annotated[float, Field(gt=0, le=100)]  # of the trials that may continue, per cent
    n_startup_trials: Count
    n_warmup_epochs: Count
    interval_epochs: Positive
    n_min_trials: Positive


@dataclass(frozen=True, config=FROZEN)
class WandbConfig:
    """Weights & Biases."""

    project: str
    entity: str | None  # user or team; null: the account's own default
    mode: Literal["online", "offline"] | None  # null: as WANDB_MODE says, otherwise online


@dataclass(frozen=True, config=FROZEN)
class LoggerConfig:
    """Output for people."""

    tensorboard: bool
    progress: Literal["auto", "bar", "plain", "none"]
    curves: bool
    report: bool
    video: bool
    video_size: Annotated[int, Field(ge=64, le=2048)]  # pixels
    wandb: WandbConfig | None  # null: nothing is sent


@dataclass(frozen=True, config=FROZEN)
class NetworkConfig:
    """Addresses, secrets and limits of the connections between server, workers and trainer."""

    host: Host
    bind: Host
    port: Port
    password: str | None = field(repr=False)  # null: none is set
    tls: bool
    keys_dir: str
    max_workers: Positive
    max_steps_ahead: NonNegative  # environment steps
    model_interval_s: NonNegative
    backlog_mb: Positive
    timeout_s: PositiveFloat

    def without_secrets(self) -> "NetworkConfig":
        """Return a copy that may be written into a file."""
        return replace(self, password=None)


@dataclass(frozen=True, config=FROZEN)
class RestartConfig:
    """The data that ``+restart=clean`` or ``+restart=archive`` clears before training."""

    mode: Literal["delete", "archive"]
    targets: Annotated[tuple[Literal["study", "replay", "checkpoints", "weights"], ...], Field(min_length=1)]
    dry_run: bool  # true: list the files with their sizes and stop
    tmrl_run: str | None  # name of a run of tmrl's own that is cleared from TmrlData as well


@dataclass(frozen=True, config=FROZEN)
class Config:
    """The whole configuration of a run."""

    seed: Seed
    device: Device
    threads: Count  # 0: one or every core, whichever is faster
    cuda_graphs: bool
    log_std_min: float
    role: Role
    workers: Positive  # worker processes that role=all starts
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

    def to_record(self) -> "Config":
        """Return a copy for the files of the run: without secrets, and without settings that concern one start only."""
        return replace(self, role="local", network=self.network.without_secrets(), restart=None)
