"""A small convolutional image encoder that is trained beside a model and then thrown away.

From few thousand drawings, convolutions learn shapes that carry over to another artist much sooner than
attention over patches does, at a third of the cost. The generator's text encoder is trained against this
network alone; the judge's ViT, which stock CLIP asks for, learns from its soft answers.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, width_in: int, width_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width_out, track_running_stats=False)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out, track_running_stats=False)
        self.shortcut = nn.Conv2d(width_in, width_out, 1, bias=False)
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.norm1(self.conv1(x)))
        hidden = self.norm2(self.conv2(hidden))
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride)
        return F.relu(hidden + self.shortcut(x))


class ConvNet(nn.Module):
    """[n 3 64 64] -> [n projection_dim]."""

    def __init__(self, width: int, projection_dim: int):
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.stem = nn.Conv2d(3, width, 5, 2, 2, bias=False)
        self.norm = nn.BatchNorm2d(width, track_running_stats=False)
        pairs = zip([width, *widths[:-1]], widths, (1, 2, 2, 2), strict=True)
        self.blocks = nn.Sequential(*(Block(a, b, stride) for a, b, stride in pairs))
        self.head = nn.Linear(widths[-1], projection_dim)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(pixels)))
        x = self.blocks(x)
        return self.head(x.mean((2, 3)))
