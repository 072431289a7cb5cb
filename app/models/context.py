"""The context encoder: what the last K steps say about car and track, as one vector z."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.config.schema import EncoderConfig
from app.models.stacked import StackedLayerNorm, StackedLinear

STREAMS = 2  # what the car sensed; what it did and earned


def sinusoidal_positions(length: int, dim: int) -> Tensor:
    """Fixed position codes (length, dim) of Vaswani et al. 2017, section 3.5."""
    position = torch.arange(length, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    table = torch.zeros(length, dim)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate[: dim // 2])
    return table


class StackedTransformerLayer(nn.Module):
    """One pre-norm transformer layer for both streams at once: (2, B·K, dim) → same shape."""

    def __init__(self, cfg: EncoderConfig):
        super().__init__()
        dim, self.heads, self.dropout = cfg.stream_dim, cfg.heads, cfg.dropout
        self.norm_attention = StackedLayerNorm(STREAMS, dim)
        self.qkv = StackedLinear(STREAMS, dim, 3 * dim)
        self.out = StackedLinear(STREAMS, dim, dim)
        self.norm_ffn = StackedLayerNorm(STREAMS, dim)
        self.widen = StackedLinear(STREAMS, dim, cfg.ffn_dim)
        self.narrow = StackedLinear(STREAMS, cfg.ffn_dim, dim)

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x

    def _attend(self, x: Tensor, length: int) -> Tensor:
        streams, tokens, dim = x.shape
        batch = streams * tokens // length
        # (2, B·K, 3·dim) → 3 × (2·B·heads, K, dim/heads); explicit products beat SDPA at this size.
        qkv = self.qkv(x).view(batch, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.reshape(3, batch * self.heads, length, dim // self.heads)
        scores = torch.baddbmm(q.new_zeros(1, 1, 1), q, k.mT, beta=0, alpha=1 / math.sqrt(dim // self.heads))
        mixed = torch.bmm(self._drop(scores.softmax(-1)), v)
        mixed = mixed.view(batch, self.heads, length, -1).transpose(1, 2).reshape(streams, tokens, dim)
        return self.out(mixed)

    def forward(self, x: Tensor, length: int) -> Tensor:
        """Attend along each window of ``length`` tokens, then the feed-forward part."""
        x = x + self._drop(self._attend(self.norm_attention(x), length))
        hidden = self._drop(functional.relu(self.widen(self.norm_ffn(x))))
        return x + self._drop(self.narrow(hidden))


class ContextEncoder(nn.Module):
    """Window (B, K, W) and fused observation (B, D) → context z (B, context_dim).

    Two streams (state; action and reward), each with its first differences, a transformer over each, a gated
    merge, a GRU, then attention pooling by one query from the current observation and a few learned ones.

    Args:
        cfg: the ``encoder`` group.
        length: K, rows of the window.
        state_dim: leading columns of the window that describe the state.
        other_dim: remaining columns, action and reward.
        query_dim: width D of the fused observation.
    """

    def __init__(self, cfg: EncoderConfig, length: int, state_dim: int, other_dim: int, query_dim: int):
        super().__init__()
        self.length, self.state_dim = length, state_dim
        self.embed_state = nn.Linear(2 * state_dim, cfg.stream_dim)
        self.embed_other = nn.Linear(2 * other_dim, cfg.stream_dim)
        self.register_buffer("positions", sinusoidal_positions(length, cfg.stream_dim), persistent=False)
        self.layers = nn.ModuleList(StackedTransformerLayer(cfg) for _ in range(cfg.layers))
        self.gate = nn.Linear(STREAMS * cfg.stream_dim, cfg.stream_dim)
        self.gru = nn.GRU(cfg.stream_dim, cfg.context_dim, batch_first=True)
        self.query = nn.Linear(query_dim, cfg.context_dim)
        self.pool_queries = nn.Parameter(torch.randn(cfg.pool_queries, cfg.context_dim) / math.sqrt(cfg.context_dim))
        self.key_value = nn.Linear(cfg.context_dim, 2 * cfg.context_dim)
        self.norm = nn.LayerNorm(cfg.context_dim)

    def _streams(self, window: Tensor) -> Tensor:
        """(B, K, W) → embedded tokens of both streams (2, B·K, dim)."""
        change = torch.cat([torch.zeros_like(window[:, :1]), window[:, 1:] - window[:, :-1]], 1)
        s = self.state_dim
        state = self.embed_state(torch.cat([window[..., :s], change[..., :s]], -1))
        other = self.embed_other(torch.cat([window[..., s:], change[..., s:]], -1))
        return (torch.stack([state, other]) + self.positions).flatten(1, 2)

    def _pool(self, memory: Tensor, fused: Tensor) -> Tensor:
        """Sum of what every query reads from the GRU outputs (B, K, dim) → (B, dim)."""
        batch = memory.shape[0]
        queries = torch.cat([self.query(fused)[:, None], self.pool_queries.expand(batch, -1, -1)], 1)
        keys, values = self.key_value(memory).chunk(2, -1)
        weights = (queries @ keys.mT / math.sqrt(keys.shape[-1])).softmax(-1)
        # Summing the weights first reads the values once for all queries.
        return (weights.sum(1, keepdim=True) @ values).squeeze(1)

    def forward(self, window: Tensor, fused: Tensor) -> Tensor:
        """Encode the window in the light of the current observation."""
        tokens = self._streams(window)
        for layer in self.layers:
            tokens = layer(tokens, self.length)
        state, other = tokens.unflatten(1, (-1, self.length))
        gate = self.gate(torch.cat([state, other], -1)).sigmoid()
        memory, _ = self.gru(torch.lerp(other, state, gate))
        return self.norm(self._pool(memory, fused))
