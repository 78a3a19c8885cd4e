"""torch.compile as an option that can fail without failing the training."""

import copy

import torch
from torch import nn

from mpc_model.localizer import Localizer
from pipelines.config.root import Config
from pipelines.runtime import console


def compile_encoder(localizer: Localizer, config: Config, device: torch.device) -> bool:
    """Compile the encoder in place, and try it forwards and backwards on a blank batch; whether that went well.

    Where it fails (no C++ compiler, an operation that cannot be compiled) one line says so and the encoder stays as it
    was. Weights, statistics and gradients are untouched either way.
    """
    encoder = localizer.encoder
    assert isinstance(encoder, nn.Module)
    before = copy.deepcopy(encoder.state_dict())
    side = config.model.input_size
    blank = torch.zeros(config.train.batch_size, 3, side, side, device=device)  # type: ignore[arg-type]
    console.say("compile: compiling the backbone; this takes minutes")
    encoder.compile()
    try:
        with torch.autocast(device.type, torch.bfloat16, config.train.precision == "bf16"):
            maps = encoder.train()(blank)
        if maps[0].requires_grad:
            torch.stack([level.float().sum() for level in maps]).sum().backward()
    except (RuntimeError, OSError, ImportError) as error:
        encoder._compiled_call_impl = None
        said = " ".join(str(error).split())[:200]
        console.warn(
            f"compile: torch.compile does not work here, training goes on without it: {type(error).__name__}: {said}"
        )
        return False
    finally:
        encoder.zero_grad(set_to_none=True)
        encoder.load_state_dict(before)
    return True
