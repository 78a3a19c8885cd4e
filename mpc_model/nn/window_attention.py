"""Attention within windows of 7 x 7 pixels: what HRFormer's blocks mix a map's pixels by.

Shape letters: B images, C channels, H x W pixels, N windows, T = 49 tokens in a window.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.nn.tile_frame import Frame, padding_before

WINDOW = 7  # side of an attention window, in pixels of the map


def relative_position_index(side: int) -> Tensor:
    """(side^2, side^2) int64: the bias table's row for query i and key j, (dy + side-1)(2 side-1) + dx + side-1."""
    y, x = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
    dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]
    return (dy + side - 1) * (2 * side - 1) + dx + side - 1


class WindowAttention(nn.Module):
    """Multi-head self-attention in 7x7 windows, softmax(q k^T / sqrt(d) + position bias) v: (B, H, W, C) -> same.

    The map is zero-padded to multiples of 7, the smaller half of the padding at the top and left. Padded tokens are not
    masked: they take part with the projections' biases as their keys and values, as in the published weights. What they
    would attend to is cut off, so nothing is projected for them: softmax does not see a bias that all keys share, and
    its weights sum to 1, so that the bias of all values passes through it; without these, padded keys and values are 0.
    A tile is given its frame in this map, so that its windows are those of the whole map.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(WINDOW))
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, frame: Frame | None = None) -> Tensor:
        b, height, width, channels = tokens.shape
        y, x, whole_y, whole_x = (frame.top, frame.left, frame.height, frame.width) if frame else (0, 0, height, width)
        top, left = padding_before(y, whole_y, WINDOW), padding_before(x, whole_x, WINDOW)
        bottom, right = -(top + height) % WINDOW, -(left + width) % WINDOW
        rows, columns = (top + height + bottom) // WINDOW, (left + width + right) // WINDOW
        d = head_width(channels // self.heads, tokens.device)

        padded = F.pad(self._qkv(tokens, d), (0, 0, left, right, top, bottom))
        grid = padded.view(b, rows, WINDOW, columns, WINDOW, 3, self.heads, d)
        windows = grid.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, self.heads, WINDOW**2, d)
        q, k, v = windows.unbind()
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # (heads, T, T)
        mixed = attend(q, k, v, bias).view(b, rows, columns, self.heads, WINDOW, WINDOW, d)

        merged = mixed.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, rows * WINDOW, columns * WINDOW, -1)
        own = merged[:, top : top + height, left : left + width]
        weight = self._heads_padded(self.out_proj.weight.T, d).T
        return F.linear(own, weight, self.out_proj(self.v_proj.bias))

    def _qkv(self, tokens: Tensor, width: int) -> Tensor:
        """Queries, divided by sqrt(d), keys and values of real tokens, the latter two without bias, (B, H, W, ...).

        The last dimension holds queries, keys and values, of each the heads, of each `width` channels.
        """
        q, k, v = self.q_proj, self.k_proj, self.v_proj
        scale = (q.in_features // self.heads) ** -0.5
        weight = torch.cat([q.weight * scale, k.weight, v.weight])
        # Times 0, not left out: the keys' bias then has its gradient, 0, which optimizers and DDP wait for.
        bias = torch.cat([q.bias * scale, k.bias * 0, v.bias * 0])
        return F.linear(tokens, self._heads_padded(weight, width), self._heads_padded(bias[:, None], width)[:, 0])

    def _heads_padded(self, rows: Tensor, width: int) -> Tensor:
        """Rows (n heads d, columns) with zero rows after each head's d: (n heads width, columns).

        Weights are padded, not what they give: a head's zero channels come from the product itself, and add nothing.
        """
        d = self.q_proj.out_features // self.heads
        if width == d:
            return rows
        return F.pad(rows.unflatten(0, (-1, d)), (0, 0, 0, width - d)).flatten(0, 1)


def head_width(channels: int, device: torch.device) -> int:
    """Channels that a head of so many has inside attention on a device.

    On a CPU as many. Elsewhere a multiple of 8: with another number, `scaled_dot_product_attention` takes none of its
    fused kernels but the formula, whose products it computes in float32.
    """
    return channels if device.type == "cpu" else -(-channels // 8) * 8


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T + bias) v of (N, heads, T, d) and a bias (heads, T, T)."""
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)[None], scale=1.0)
    return (q @ k.transpose(2, 3)).add_(bias).softmax(dim=-1) @ v
