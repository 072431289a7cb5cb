"""Context encoder: a transformer and a GRU that summarise the last K steps in one vector z."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.config.schema import EncoderConfig
from app.models.layers import StackedLayerNorm, StackedLinear

STREAMS = 2  # state; action and reward


def sinusoidal_positions(length: int, dim: int) -> Tensor:
    """Sinusoidal position encodings (length, dim) of Vaswani et al. 2017, arXiv:1706.03762, section 3.5."""
    position = torch.arange(length, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    table = torch.zeros(length, dim)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate[: dim // 2])
    return table


class StackedTransformerLayer(nn.Module):
    """Pre-norm transformer layer (Xiong et al. 2020, arXiv:2002.04745) for both streams: (2, B·K, dim) → same shape.

    Args:
        cfg: The ``encoder`` group.
    """

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
        # (2, B·K, 3·dim) → 3 × (2·B·heads, K, dim/heads); explicit products are faster than SDPA at this size.
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
    """Context encoder: window (B, K, W) and fused observation (B, D) → context z (B, context_dim).

    Two streams (state; action and reward), each with its first differences, pass through a transformer, are merged
    by a gate and read by a GRU. Attention pools the outputs of the GRU with one query from the current observation
    and a few learned ones.

    Args:
        cfg: The ``encoder`` group.
        length: Rows K of the window.
        state_dim: Leading columns of the window that describe the state.
        other_dim: Remaining columns, action and reward.
        query_dim: Width D of the fused observation.
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
        """Embed a window (B, K, W) as tokens of both streams (2, B·K, dim)."""
        change = torch.cat([torch.zeros_like(window[:, :1]), window[:, 1:] - window[:, :-1]], 1)
        n = self.state_dim
        state = self.embed_state(torch.cat([window[..., :n], change[..., :n]], -1))
        other = self.embed_other(torch.cat([window[..., n:], change[..., n:]], -1))
        return (torch.stack([state, other]) + self.positions).flatten(1, 2)

    def _hidden(self, window: Tensor) -> Tensor:
        """Outputs of the GRU (B, K, dim) for a batch of windows."""
        tokens = self._streams(window)
        for layer in self.layers:
            tokens = layer(tokens, self.length)
        state, other = tokens.unflatten(1, (-1, self.length))
        gate = self.gate(torch.cat([state, other], -1)).sigmoid()
        hidden, _ = self.gru(torch.lerp(other, state, gate))
        return hidden

    def _attend(self, hidden: Tensor, fused: Tensor) -> tuple[Tensor, Tensor]:
        """Attention of every query to the outputs of the GRU (B, queries, K), and the values (B, K, dim)."""
        batch = hidden.shape[0]
        queries = torch.cat([self.query(fused)[:, None], self.pool_queries.expand(batch, -1, -1)], 1)
        keys, values = self.key_value(hidden).chunk(2, -1)
        return (queries @ keys.mT / math.sqrt(keys.shape[-1])).softmax(-1), values

    def attention(self, window: Tensor, fused: Tensor) -> Tensor:
        """Attention (B, queries, K) to the steps of the window, oldest first; the first query is the observation's."""
        return self._attend(self._hidden(window), fused)[0]

    def forward(self, window: Tensor, fused: Tensor) -> Tensor:
        """Encode a batch of windows, given the current observations."""
        weights, values = self._attend(self._hidden(window), fused)
        # The weights are summed first, so that the values are multiplied once for all queries.
        return self.norm((weights.sum(1, keepdim=True) @ values).squeeze(1))
