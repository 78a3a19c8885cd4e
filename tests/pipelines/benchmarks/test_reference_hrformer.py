"""The plain HRFormer has the tensors of the fast one, and its parts are the formulas of their names."""

import math

import pytest
import torch

from mpc_model.nn.hrformer import HRFormer, HRFormerSpec
from pipelines.benchmarks.reference_hrformer import Attention, DropPath, WindowedAttention, load_plain

SPEC = HRFormerSpec((4, 8, 12, 16), (1, 2, 3, 4), modules=(1, 1, 1), blocks=1, stem=8, layer1=4, projection=8)


def test_on_the_same_weights_the_maps_are_those_of_hrformer() -> None:
    torch.manual_seed(0)
    model = HRFormer(SPEC).double().eval()
    plain = load_plain(SPEC, model.state_dict()).eval()
    images = torch.rand(2, 3, 52, 70, dtype=torch.float64)
    with torch.no_grad():
        for got, expected in zip(plain(images), model(images), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_tensors_of_another_size_are_refused() -> None:
    tensors = HRFormer(SPEC).state_dict()
    tensors.pop("conv1.weight")
    with pytest.raises(RuntimeError, match=r"conv1\.weight"):
        load_plain(SPEC, tensors)


def test_attention_is_softmax_of_scaled_products_and_bias() -> None:
    """Token by token: softmax_j(q_i k_j / sqrt(d) + bias of the offset i - j) v_j."""
    torch.manual_seed(1)
    layer = Attention(4, 2).double()
    torch.nn.init.normal_(layer.relative_position_bias_table)
    x = torch.randn(1, 49, 4, dtype=torch.float64)
    q, k, v = (projection(x)[0] for projection in (layer.q_proj, layer.k_proj, layer.v_proj))
    token = 10  # row 1, column 3
    heads = []
    for head in range(2):
        part = slice(2 * head, 2 * head + 2)
        logits = []
        for other in range(49):
            down, right = token // 7 - other // 7, token % 7 - other % 7
            bias = layer.relative_position_bias_table[(down + 6) * 13 + right + 6, head]
            logits.append(q[token, part] @ k[other, part] / math.sqrt(2) + bias)
        heads.append(torch.stack(logits).softmax(0) @ v[:, part])
    torch.testing.assert_close(layer(x)[0, token], layer.out_proj(torch.cat(heads)))


def test_windows_of_a_padded_map_do_not_see_each_other() -> None:
    """9 rows are padded to two windows, 2 rows above and 3 below: the first window ends after row 4."""
    torch.manual_seed(2)
    layer = WindowedAttention(4, 1).double()
    x = torch.randn(1, 9 * 7, 4, dtype=torch.float64)
    changed = x.clone()
    changed[0, 5 * 7 :] += 1
    before, after = (layer(tokens, 9, 7).view(9, 7, 4) for tokens in (x, changed))
    torch.testing.assert_close(after[:5], before[:5])
    assert (after[5:] - before[5:]).abs().amin() > 0


def test_a_dropped_path_keeps_the_mean() -> None:
    torch.manual_seed(3)
    drop = DropPath(0.25)
    dropped = drop.train()(torch.ones(4000, 2, 3))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(dropped, dropped[:, :1, :1].expand(-1, 2, 3))  # whole images
    assert torch.equal(drop.eval()(torch.ones(2, 2)), torch.ones(2, 2))
