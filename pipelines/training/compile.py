"""torch.compile as an option: where it fails, training goes on without it."""

import copy

import torch
from torch import nn

from mpc_model.localizer import Localizer
from pipelines.config.root import Config
from pipelines.runtime import console


def compile_encoder(localizer: Localizer, config: Config, device: torch.device) -> bool:
    """Compile the encoder in place and try it forward and backward on an empty batch. Returns whether that succeeded.

    Where it fails (no C++ compiler, an operation that cannot be compiled) one line says so and the encoder stays as it
    was. Weights, statistics and gradients are the same before and after.
    """
    encoder = localizer.encoder
    assert isinstance(encoder, nn.Module)
    before = copy.deepcopy(encoder.state_dict())
    side = config.model.input_size
    batch = torch.zeros(config.train.batch_size, 3, side, side, device=device)  # type: ignore[arg-type]
    console.say("compile: compiling the backbone; this takes minutes")
    encoder.compile()
    try:
        with torch.autocast(device.type, torch.bfloat16, config.train.precision == "bf16"):
            maps = encoder.train()(batch)
        if maps[0].requires_grad:
            torch.stack([level.float().sum() for level in maps]).sum().backward()
    except (RuntimeError, OSError, ImportError) as error:
        encoder._compiled_call_impl = None
        reason = " ".join(str(error).split())[:200]
        failure = f"{type(error).__name__}: {reason}"
        console.warn(f"compile: torch.compile does not work here, training goes on without it: {failure}")
        return False
    finally:
        encoder.zero_grad(set_to_none=True)
        encoder.load_state_dict(before)
    return True
