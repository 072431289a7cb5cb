"""The trunks: everything between the observation and the heads, shared by policy and Q-heads."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from app.config.schema import Config
from app.envs.spec import ObservationSpec
from app.models.backbone import Backbone
from app.models.context import ContextEncoder
from app.models.film import FiLMGenerator
from app.models.fusion import ConcatFusion, FloatBranch, GatedFusion
from app.models.inputs import ScaleInputs


class Features(NamedTuple):
    """What a trunk makes of a batch of observations."""

    features: Tensor  # (B, D), input of every head
    film_params: Tensor | None  # (B, layers, 2, width), scale and shift of every modulated layer
    context: Tensor | None  # z (B, context_dim)


class FloatTrunk(nn.Module):
    """The scaled floats as they are: the trunk of a plain MLP agent."""

    def __init__(self, spec: ObservationSpec):
        super().__init__()
        self.inputs = ScaleInputs(spec)
        self.out_dim = spec.float_dim

    def forward(self, obs: Mapping[str, Tensor]) -> Features:
        """Scale (B, F)."""
        return Features(self.inputs.floats(obs), None, None)


class HybridTrunk(nn.Module):
    """CNN on the images, MLP on the floats, fused; no CNN where the environment has no images."""

    def __init__(self, config: Config, spec: ObservationSpec):
        super().__init__()
        model = config.model
        self.inputs = ScaleInputs(spec)
        image_dim = model.image_dim if spec.image_shape else 0
        self.backbone = (
            Backbone(config.backbone, config.norm, spec.image_shape[0], image_dim) if spec.image_shape else None
        )
        self.floats = FloatBranch(spec.float_dim, model.float_dim)
        self.fusion = (
            ConcatFusion(image_dim, model.float_dim)
            if model.fused_dim is None
            else GatedFusion(image_dim, model.float_dim, model.fused_dim)
        )
        self.out_dim = self.fusion.out_dim

    def forward(self, obs: Mapping[str, Tensor]) -> Features:
        """Encode and fuse."""
        image = None if self.backbone is None else self.backbone(self.inputs.images(obs))
        return Features(self.fusion(image, self.floats(self.inputs.floats(obs))), None, None)


class ContextualTrunk(HybridTrunk):
    """The hybrid trunk, the context encoder over the window, and the FiLM generator driven by it."""

    def __init__(self, config: Config, spec: ObservationSpec):
        super().__init__(config, spec)
        encoder, state_dim = config.encoder, len(spec.window_sensors)
        self.context = ContextEncoder(encoder, spec.window, state_dim, spec.action_dim + 1, self.out_dim)
        self.film = FiLMGenerator(
            encoder.context_dim, encoder.film_hidden_dim, config.critic.num_layers, config.critic.hidden_dim
        )
        # Predicting what is earned next gives z a reason to describe the track ahead.
        self.predict_rewards = nn.Linear(encoder.context_dim, len(encoder.prediction_horizons))

    def forward(self, obs: Mapping[str, Tensor]) -> Features:
        """Encode, fuse, read the window, generate FiLM parameters."""
        fused = super().forward(obs).features
        z = self.context(self.inputs.window(obs), fused)
        return Features(fused, self.film(z), z)
