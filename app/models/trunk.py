"""Trunks: networks from observations to the features that policy and Q-heads share.

An observation is scaled (``ScaleInputs``), its image and its floats are encoded apart, both are fused, and the
contextual trunk adds a context vector with the FiLM parameters that it generates.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from app.config.schema import BackboneConfig, EncoderConfig, ModelConfig, NormConfig
from app.envs.spec import ObservationSpec
from app.models.backbone import Backbone
from app.models.context_encoder import ContextEncoder
from app.models.layers import FiLMGenerator


class Features(NamedTuple):
    """Output of a trunk for a batch of observations.

    Attributes:
        features: Input of every head (B, D).
        film_params: Scale and shift of every modulated layer (B, layers, 2, width); None without FiLM.
        context: Context z (B, context_dim); None without a context encoder.
    """

    features: Tensor
    film_params: Tensor | None
    context: Tensor | None


# --- inputs and fusion ---


class ScaleInputs(nn.Module):
    """Scaling of observations in physical units to network inputs of order 1.

    Args:
        spec: Format and scales of the observations.
    """

    def __init__(self, spec: ObservationSpec):
        super().__init__()
        sensors = torch.tensor(spec.sensor_scale, dtype=torch.float32)
        history = torch.ones(spec.action_history * spec.action_dim)
        self.register_buffer("floats_gain", 1 / torch.cat([sensors, history]), persistent=False)
        in_window = sensors[list(spec.window_sensors)]
        reward = torch.tensor([spec.reward_scale], dtype=torch.float32)
        self.register_buffer(
            "window_gain", 1 / torch.cat([in_window, torch.ones(spec.action_dim), reward]), persistent=False
        )

    def floats(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Scaled floats (B, F)."""
        return obs["floats"] * self.floats_gain

    def images(self, obs: Mapping[str, Tensor]) -> Tensor:
        """uint8 images (B, C, H, W) → float32 in [0, 1], channels last (1.5 × faster convolutions on a CPU)."""
        return obs["images"].to(torch.float32, memory_format=torch.channels_last).mul_(1 / 255)

    def window(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Scaled context window (B, K, W)."""
        return obs["window"] * self.window_gain


class FloatBranch(nn.Sequential):
    """MLP on speed, gear, rpm, lidar and past actions: (B, F) → (B, dim).

    Args:
        in_dim: Number of floats F.
        dim: Width of both layers.
    """

    def __init__(self, in_dim: int, dim: int):
        super().__init__(nn.Linear(in_dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())


class ConcatFusion(nn.Module):
    """Fusion by concatenation: LayerNorm(concat(image, floats)).

    Args:
        image_dim: Width of the encoded image; 0 without images.
        float_dim: Width of the encoded floats.
    """

    def __init__(self, image_dim: int, float_dim: int):
        super().__init__()
        self.out_dim = image_dim + float_dim
        self.norm = nn.LayerNorm(self.out_dim)

    def forward(self, image: Tensor | None, floats: Tensor) -> Tensor:
        """Join (B, image_dim) and (B, float_dim); ``image`` is None where there is no camera."""
        return self.norm(floats if image is None else torch.cat([image, floats], -1))


class GatedFusion(nn.Module):
    """Gated fusion: LayerNorm(g · W_i(image) + (1 − g) · W_f(floats)), the gate g per feature computed from both.

    W_i and the gate start at zero: the output of an untrained CNN would be noise to the heads, so the image has an
    influence only as far as the critic learns to use it. The zero start of FiLM has the same reason.

    Args:
        image_dim: Width of the encoded image; 0 without images.
        float_dim: Width of the encoded floats.
        out_dim: Width of the output.
    """

    def __init__(self, image_dim: int, float_dim: int, out_dim: int):
        super().__init__()
        self.out_dim = out_dim
        self.from_floats = nn.Linear(float_dim, out_dim)
        self.norm = nn.LayerNorm(out_dim)
        self.has_image = image_dim > 0
        if self.has_image:
            self.from_image = nn.Linear(image_dim, out_dim)
            self.gate = nn.Linear(image_dim + float_dim, out_dim)
            for parameter in (*self.from_image.parameters(), *self.gate.parameters()):
                nn.init.zeros_(parameter)

    def forward(self, image: Tensor | None, floats: Tensor) -> Tensor:
        """Blend (B, image_dim) and (B, float_dim) to (B, out_dim); ``image`` is None where there is no camera."""
        from_floats = self.from_floats(floats)
        if not self.has_image:
            return self.norm(from_floats)
        gate = self.gate(torch.cat([image, floats], -1)).sigmoid()
        return self.norm(torch.lerp(from_floats, self.from_image(image), gate))


# --- trunks ---


class FloatTrunk(nn.Module):
    """Trunk of a plain MLP agent: the scaled floats.

    Args:
        spec: Format of the observations.
    """

    def __init__(self, spec: ObservationSpec):
        super().__init__()
        self.inputs = ScaleInputs(spec)
        self.out_dim = spec.float_dim

    def forward(self, obs: Mapping[str, Tensor]) -> Features:
        """Scale the floats (B, F)."""
        return Features(self.inputs.floats(obs), None, None)


class HybridTrunk(nn.Module):
    """CNN on the images and MLP on the floats, fused; no CNN where the environment has no images.

    Args:
        spec: Format of the observations.
        model: Widths of the branches and kind of fusion.
        backbone: Size of the CNN.
        norm: Normalisation of the CNN.
    """

    def __init__(self, spec: ObservationSpec, model: ModelConfig, backbone: BackboneConfig, norm: NormConfig):
        super().__init__()
        self.inputs = ScaleInputs(spec)
        image_dim = model.image_dim if spec.image_shape else 0
        self.backbone = Backbone(backbone, norm, spec.image_shape[0], image_dim) if spec.image_shape else None
        self.floats = FloatBranch(spec.float_dim, model.float_dim)
        self.fusion = (
            ConcatFusion(image_dim, model.float_dim)
            if model.fused_dim is None
            else GatedFusion(image_dim, model.float_dim, model.fused_dim)
        )
        self.out_dim = self.fusion.out_dim

    def forward(self, obs: Mapping[str, Tensor]) -> Features:
        """Encode both branches and fuse them."""
        image = None if self.backbone is None else self.backbone(self.inputs.images(obs))
        return Features(self.fusion(image, self.floats(self.inputs.floats(obs))), None, None)


class ContextualTrunk(HybridTrunk):
    """Hybrid trunk with a context encoder over the window and a FiLM generator on its output.

    The context also predicts the rewards at a few horizons, an auxiliary task (UNREAL: Jaderberg et al. 2017,
    arXiv:1611.05397) that makes it describe the track ahead.

    Args:
        spec: Format of the observations.
        model: Widths of the branches and kind of fusion.
        backbone: Size of the CNN.
        norm: Normalisation of the CNN.
        encoder: Context encoder, FiLM generator and prediction horizons.
        film_layers: Number of layers that FiLM modulates in each head.
        film_width: Width of each of them.
    """

    def __init__(
        self,
        spec: ObservationSpec,
        model: ModelConfig,
        backbone: BackboneConfig,
        norm: NormConfig,
        encoder: EncoderConfig,
        film_layers: int,
        film_width: int,
    ):
        super().__init__(spec, model, backbone, norm)
        state_dim, other_dim = len(spec.window_sensors), spec.action_dim + 1
        self.context = ContextEncoder(encoder, spec.window, state_dim, other_dim, self.out_dim)
        self.film = FiLMGenerator(encoder.context_dim, encoder.film_hidden_dim, film_layers, film_width)
        self.predict_rewards = nn.Linear(encoder.context_dim, len(encoder.prediction_horizons))

    def forward(self, obs: Mapping[str, Tensor]) -> Features:
        """Encode and fuse the observation, encode its window, and generate the FiLM parameters."""
        fused = super().forward(obs).features
        z = self.context(self.inputs.window(obs), fused)
        return Features(fused, self.film(z), z)

    def attention(self, obs: Mapping[str, Tensor], fused: Tensor) -> Tensor:
        """Attention (B, queries, K) of the context encoder to the steps of the window, oldest first.

        Args:
            obs: Batch of observations.
            fused: Their features (B, D).
        """
        return self.context.attention(self.inputs.window(obs), fused)
