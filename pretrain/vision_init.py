"""Where the judge's vision transformer starts: near a convolution."""

import torch
from transformers import CLIPVisionModel


@torch.no_grad()
def mimic_convolutions(vision: CLIPVisionModel) -> None:
    """Start attention near what trained ViTs do: look at similar and near patches (Trockman & Kolter, 2023).

    Query and key products start near the identity, value and output products near a negative identity, and the
    position embeddings are two-dimensional sinusoids. From scratch on few images this saves many steps.
    """
    positions = vision.embeddings.position_embedding.weight
    side, width = int((len(positions) - 1) ** 0.5), positions.shape[1]
    positions[1:] = 0.3 * sinusoids(side, width)
    for layer in vision.encoder.layers:
        attention = layer.self_attn
        heads, per_head = attention.num_heads, attention.head_dim
        for head in range(heads):
            rows = slice(head * per_head, (head + 1) * per_head)
            noise = torch.randn(width, width) / width**0.5
            u, s, vh = torch.linalg.svd(0.7 * noise + 0.7 * torch.eye(width))
            root = s[:per_head].sqrt()[:, None]
            attention.q_proj.weight[rows] = u[:, :per_head].T * root
            attention.k_proj.weight[rows] = vh[:per_head] * root
        noise = torch.randn(width, width) / width**0.5
        u, s, vh = torch.linalg.svd(0.4 * noise - 0.4 * torch.eye(width))
        attention.v_proj.weight.copy_(s.sqrt()[:, None] * vh)
        attention.out_proj.weight.copy_(u * s.sqrt())


def sinusoids(side: int, width: int) -> torch.Tensor:
    """Two-dimensional position embeddings [side * side, width]."""
    steps = torch.arange(side).float()[:, None] / (100.0 ** torch.linspace(0, 1, width // 4))
    line = torch.cat([steps.sin(), steps.cos()], dim=1)
    y, x = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    return torch.cat([y, x], dim=-1).reshape(side * side, width)
