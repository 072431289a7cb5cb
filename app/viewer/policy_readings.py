"""Values inside the networks for the states of an episode: Q, noise of the policy, FiLM and attention."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from app.config.schema import Config
from app.core.errors import UserError
from app.envs.env_factory import make_spec
from app.models.actor_critic import ActorCritic
from app.models.distributions import squashed_entropy, squashed_std
from app.models.factory import make_actor_critic
from app.models.trunk import ContextualTrunk
from app.models.value import CategoricalValue
from app.runs.run_folder import RunFolder
from app.viewer.recorded_episode import RecordedEpisode

_BATCH = 256  # states


@dataclass(frozen=True, eq=False)
class PolicyReadings:
    """Values inside the networks for the T states of an episode in which an action was chosen.

    Attributes:
        q: Value of the action that was driven, mean over the heads ``(T,)``.
        bins: Probability of every bin of a categorical value, mean over the heads ``(T, bins)``; None for a scalar.
        bin_edges: Edges of the bins ``(bins + 1,)``; None for a scalar.
        entropy: Entropy of the policy, nats ``(T,)``.
        std: Standard deviation of the sampled gas, brake and steer ``(T, 3)``.
        film: Mean absolute scale of FiLM, over layers and features ``(T,)``; None without FiLM.
        attention: Attention to the steps of the window, oldest first, mean over the queries ``(T, K)``; every row sums
            to 1. None without a context encoder.
    """

    q: np.ndarray
    bins: np.ndarray | None
    bin_edges: np.ndarray | None
    entropy: np.ndarray
    std: np.ndarray
    film: np.ndarray | None
    attention: np.ndarray | None


def load_best_model(folder: RunFolder, config: Config) -> ActorCritic:
    """Return all networks of the best policy, in eval mode.

    Args:
        folder: Folder of the run.
        config: Its configuration.

    Raises:
        UserError: The file is missing or damaged, or holds other networks.
    """
    model = make_actor_critic(config, make_spec(config.env)).to(memory_format=torch.channels_last)
    try:
        model.load_state_dict(folder.best_networks())
    except RuntimeError as error:
        raise UserError(f"{folder.best_model}: holds other networks: {str(error).splitlines()[0]}") from None
    return model.requires_grad_(False).eval()


def read_policy(model: ActorCritic, episode: RecordedEpisode) -> PolicyReadings:
    """Compute the values for the states and actions of an episode.

    Args:
        model: Networks in eval mode.
        episode: The episode.
    """
    steps = len(episode.actions)
    parts = [_read(model, episode, slice(i, min(i + _BATCH, steps))) for i in range(0, steps, _BATCH)]
    values = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    value = model.q_heads.value
    edges = value.edges.numpy() if isinstance(value, CategoricalValue) else None
    return PolicyReadings(
        q=values["q"],
        bins=values.get("bins"),
        bin_edges=edges,
        entropy=values["entropy"],
        std=values["std"],
        film=values.get("film"),
        attention=values.get("attention"),
    )


@torch.no_grad()
def _read(model: ActorCritic, episode: RecordedEpisode, rows: slice) -> dict[str, Tensor]:
    """Return the values of some states by name; those that the model does not have are missing."""
    obs = {part: torch.from_numpy(values[rows]) for part, values in episode.observations.items()}
    features, film_params, _ = model.forward_features(obs)
    gaussian = model.policy.gaussian(features, film_params)
    outputs = model.q_outputs_from_features(features, film_params, torch.from_numpy(episode.actions[rows]))
    values = {
        "q": model.q_heads.value.expectation(outputs).mean(0),
        "entropy": squashed_entropy(*gaussian),
        "std": squashed_std(*gaussian),
    }
    if isinstance(model.q_heads.value, CategoricalValue):
        values["bins"] = outputs.softmax(-1).mean(0)
    if film_params is not None:
        values["film"] = film_params[:, :, 0].abs().mean((1, 2))
    if isinstance(model.trunk, ContextualTrunk):
        values["attention"] = model.trunk.attention(obs, features).mean(1)
    return values
