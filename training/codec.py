"""The picture's latents: a fixed linear PCA of 8x8 patches, and the network that draws them back.

A 64x64 picture in [-1, 1] becomes 8x8 positions of 48 numbers. Encoding is one matrix, so nothing
is trained for it; decoding is the inverse matrix plus a convolutional refiner to 128x128.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import nn

PATCH, CHANNELS = 8, 48


class Codec(nn.Module):
    """Shapes: pictures (B, 3, 64, 64) in [-1, 1]; latents (B, 48, 8, 8); large (B, 3, 128, 128)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3 * PATCH**2))
        self.register_buffer("basis", torch.zeros(3 * PATCH**2, CHANNELS))
        self.register_buffer("scale", torch.ones(CHANNELS))
        self.inp = nn.Sequential(
            nn.Conv2d(CHANNELS, 160, 3, padding=1), Block(160), Block(160), nn.Conv2d(160, 384, 1)
        )
        self.m16 = nn.Sequential(Block(96), Block(96), nn.Conv2d(96, 192, 1))
        self.m32 = nn.Sequential(Block(48), Block(48), Block(48), nn.GroupNorm(8, 48))
        self.c32 = nn.Conv2d(60, 48, 3, padding=1)
        self.out = nn.Conv2d(48, 48, 3, padding=1)

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        patches = nnf.unfold(pictures, PATCH, stride=PATCH).transpose(1, 2)  # rows of (c, y, x)
        z = (patches - self.mean) @ self.basis / self.scale
        return z.transpose(1, 2).reshape(len(pictures), CHANNELS, 8, 8)

    def linear(self, z: torch.Tensor) -> torch.Tensor:
        rows = z.flatten(2).transpose(1, 2) * self.scale @ self.basis.T + self.mean
        # pixel_shuffle puts channel-major patches back, and unlike fold it exports to ONNX plainly
        return nnf.pixel_shuffle(rows.transpose(1, 2).reshape(-1, 3 * PATCH**2, 8, 8), PATCH)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        base = self.linear(z)
        x = nnf.pixel_shuffle(self.inp(z), 2)
        x = nnf.pixel_shuffle(self.m16(x), 2)
        x = self.c32(torch.cat([x, nnf.pixel_unshuffle(base, 2)], 1))
        x = self.out(nnf.silu(self.m32(x)))
        return nnf.interpolate(
            base, scale_factor=2.0, mode="bilinear", align_corners=False
        ) + nnf.pixel_shuffle(x, 4)


class Block(nn.Module):
    """A residual block: norm, two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.n = nn.GroupNorm(8, channels)
        self.a = nn.Conv2d(channels, channels, 3, padding=1)
        self.b = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(nnf.silu(self.a(nnf.silu(self.n(x)))))
