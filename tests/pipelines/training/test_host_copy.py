"""Copies on the host: as the tensors were, whatever is done to them afterwards."""

import torch
from torch import nn

from pipelines.training.host_copy import HostCopy


def test_a_copy_is_what_the_tree_was() -> None:
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    tree = {"model": layer.state_dict(), "optimizer": optimizer.state_dict(), "half": [torch.ones(2).half(), "name"]}
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    copied = HostCopy(tree)
    optimizer.step()
    found = copied.wait()
    assert not torch.equal(layer.weight, before["weight"])
    for name, value in before.items():
        assert torch.equal(found["model"][name], value)
        assert not found["model"][name].requires_grad
    assert found["optimizer"]["state"][0]["step"] == 1
    assert optimizer.state_dict()["state"][0]["step"] == 2
    assert found["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    assert found["half"][0].dtype == torch.float16
    assert found["half"][1] == "name"
