"""Convolutions that use plain products on small feature maps, where a call to a convolution is mostly overhead.

Parameters are those of torch.nn.Conv2d. Only the size of the map decides which form computes, so that the actor
and the trainer round alike.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class PointwiseConv(nn.Conv2d):
    """1×1 convolution; a linear layer over the channels where the map has at most 16 pixels."""

    def __init__(self, cin: int, cout: int, bias: bool):
        super().__init__(cin, cout, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, cin, H, W) → (B, cout, H, W)."""
        if x.shape[2] * x.shape[3] > 16:
            return super().forward(x)
        return functional.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class DepthwiseConv(nn.Conv2d):
    """3×3 convolution of every channel on its own; a sum of products where the map has at most 2×2 pixels."""

    def __init__(self, channels: int, stride: int, bias: bool):
        super().__init__(channels, channels, 3, stride, 1, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H/stride, W/stride)."""
        height, width = x.shape[2:]
        if max(height, width) > 2:
            return super().forward(x)
        if height == width == 1:  # only the kernel's centre meets the map
            y = x * self.weight[:, 0, 1, 1, None, None]
        else:
            y = self._sum_of_products(x, range(0, height, self.stride[0]), range(0, width, self.stride[1]))
        return y if self.bias is None else y + self.bias[:, None, None]

    def _sum_of_products(self, x: Tensor, rows: range, columns: range) -> Tensor:
        """Weigh all pixels of the map for every output pixel, centred on one of ``rows`` and ``columns``."""
        height, width = x.shape[2:]
        kernel = self.weight[:, 0].permute(1, 2, 0)
        parts = [kernel[1 - i : 1 - i + height, 1 - j : 1 - j + width] for i in rows for j in columns]
        y = (x.permute(0, 2, 3, 1)[:, None] * torch.stack(parts)).sum((2, 3))  # (B, outputs, H, W, C) → (B, outputs, C)
        return y.unflatten(1, (len(rows), len(columns))).permute(0, 3, 1, 2)
