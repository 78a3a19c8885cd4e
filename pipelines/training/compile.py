"""The encoder made fast for training: compiled by torch.compile, its passes captured as CUDA graphs.

Both are tried before the first step, on images of noise, in the mode in which training will use the encoder, and the
maps and gradients are compared with those of the encoder as it is. Where something fails or differs, one line says so,
and training goes on without it. What is fast serves calls like those of training alone: full batches of the same size,
in the same mode. A shorter batch, and validation, go through the encoder as it is; nothing is compiled for them.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipelines.runtime import console

if TYPE_CHECKING:  # the bench of an accelerator imports this where pydantic is not installed
    from pipelines.config.root import Config
    from pipelines.training.stage import Stage

CODES = 64
"""Codes of one function that torch keeps at most; its own limit of 8 is for code that should need one."""
SHARE = {"fp32": 0.25, "bf16": 1.5}
"""Largest difference of a map, or of all gradients together, as a share of what rounding to bf16 does to them."""
FAILURES = (RuntimeError, OSError, ImportError)
"""What torch raises where there is no compiler, or something cannot be compiled or captured."""

Forward = Callable[..., list[Tensor]]


def accelerate(stage: "Stage", config: "Config", device: torch.device) -> bool:
    """Compile and capture the stage's encoder as `train.compile` and `train.cuda_graph` say.

    Returns whether it is captured: gradients must then stay where they are, since a replay writes its own into the same
    memory each time. Weights, statistics, gradients and random states are the same before and after.
    """
    encoder = stage.localizer.encoder
    assert isinstance(encoder, nn.Module)
    how, capture = _compiling(config, device), _capturing(stage, config, device)
    if (how == "off" and not capture) or (stage.verb == "finetune" and config.finetune.cache):
        return False  # an encoder whose features are cached runs once for each view
    stage.module.train()
    side = config.model.input_size
    shape = (config.train.batch_size * stage.passes, 3, side, side)
    state = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    plain: Forward = encoder.forward
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            trial = _Trial(encoder, shape, device, config.train.precision)
            if how != "off":
                _compile(encoder, how, trial)
            return capture and _capture(encoder, plain, trial)
        finally:
            encoder.load_state_dict(state)


def _compiling(config: "Config", device: torch.device) -> str:
    how = config.train.compile
    if how == "auto":
        return "blocks" if device.type == "cuda" else "off"
    return how


def _capturing(stage: "Stage", config: "Config", device: torch.device) -> bool:
    how, reason = config.train.cuda_graph, ""
    if device.type != "cuda":
        reason = f"the device is {device.type}"
    elif config.train.sync_batchnorm:
        reason = "train.sync_batchnorm exchanges statistics inside the network, which a graph cannot"
    elif stage.calls > 1 and any(weight.requires_grad for weight in stage.localizer.parameters()):
        reason = f"a step calls the network {stage.calls} times, and each replay would overwrite what the last one left"
    if how == "on" and reason:
        console.warn(f"cuda_graph: {reason}; training goes on without it")
    return how != "off" and not reason


@dataclass(frozen=True)
class _Call:
    """What a call of the encoder must be like for compiled or captured code to serve it."""

    shape: tuple[int, ...]
    training: bool
    gradients: bool
    bf16: bool

    @classmethod
    def of(cls, encoder: nn.Module, images: Tensor) -> "_Call":
        autocast = torch.is_autocast_enabled(images.device.type)
        return cls(tuple(images.shape), encoder.training, torch.is_grad_enabled(), autocast)

    @contextmanager
    def mode(self, device: torch.device) -> Iterator[None]:
        """The mode of such a call, without autocast's cache of converted weights, which a capture must not use."""
        with (
            torch.set_grad_enabled(self.gradients),
            torch.autocast(device.type, torch.bfloat16, self.bf16, cache_enabled=False),
        ):
            yield


class _Trial:
    """A forward and a backward pass of the encoder, as training has them, over images of noise.

    Rounding in another order changes gradients of a deep network in bf16 by half their length, so no fixed number
    bounds it. The measure is what bf16 does to the encoder as it is, against float32, with two images.
    """

    def __init__(self, encoder: nn.Module, shape: Sequence[Any], device: torch.device, precision: str) -> None:
        self.images = torch.rand(*shape, generator=torch.Generator().manual_seed(0)).to(device)
        self.weights = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        self.call = _Call(tuple(shape), encoder.training, bool(self.weights), precision == "bf16")
        self._encoder = encoder
        exact, rounded = (self._results(1, self.images[:2], replace(self.call, bf16=bf16)) for bf16 in (False, True))
        self._limits = [SHARE[precision] * share for share in _differences(rounded, exact)]

    def __call__(self, seed: int) -> list[Tensor]:
        """The maps, and the gradients of a fixed weighing of them laid end to end; `seed` draws stochastic depth."""
        return self._results(seed, self.images, self.call)

    def check(self, found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        """RuntimeError where two results differ by more than rounding explains."""
        for level, (share, limit) in enumerate(zip(_differences(found, expected), self._limits, strict=True)):
            if not share <= limit:  # also where it is not a number
                what = "the gradients differ" if level == 4 else f"map {level} differs"
                raise RuntimeError(f"{what} by {share:.2g} of the length, where rounding explains {limit:.2g}")

    def _results(self, seed: int, images: Tensor, call: _Call) -> list[Tensor]:
        torch.manual_seed(seed)
        with call.mode(images.device):
            maps = self._encoder(images)
        results = [level.detach().float().clone() for level in maps]
        if self.weights:
            generator = torch.Generator().manual_seed(1)
            weighing = [torch.randn(level.shape, generator=generator).to(level) for level in maps]
            gradients = torch.autograd.grad(maps, self.weights, weighing)
            results.append(torch.cat([gradient.float().flatten() for gradient in gradients]))
        return results


def _differences(found: Sequence[Tensor], expected: Sequence[Tensor]) -> list[float]:
    """The length of each difference as a share of what was expected."""
    norm = torch.linalg.vector_norm
    return [(norm(got - wanted) / norm(wanted)).item() for got, wanted in zip(found, expected, strict=True)]


def _compile(encoder: nn.Module, how: str, trial: _Trial) -> None:
    """Compile the blocks, or the whole encoder where `how` is full or it names no blocks, and install it."""
    from torch._dynamo.utils import counters  # takes a second, which a run that compiles nothing need not wait

    blocks = [part for part in encoder.modules() if getattr(part, "alike", False)]
    what = f"the {len(blocks)} blocks of the backbone" if how == "blocks" and blocks else "the backbone"
    started, plain = time.monotonic(), encoder.forward
    torch._dynamo.reset()  # what was compiled for another network
    try:
        folder = cache_folder()
        console.say(f"compile: compiling {what}; this may take minutes, less where {folder} has the code")
        expected = trial(1)
        if how == "blocks" and blocks:
            for block in blocks:
                block.compile(fullgraph=True, dynamic=False)
            fast: Forward = plain
        else:
            fast = torch.compile(plain, fullgraph=True, dynamic=False, options={"fallback_random": True})
        encoder.forward = _only(trial.call, encoder, fast, plain)
        before = counters["stats"]["unique_graphs"]
        with torch._dynamo.config.patch(recompile_limit=CODES):
            trial.check(trial(1), expected)
    except FAILURES as error:
        for block in blocks:
            block._compiled_call_impl = None
        encoder.forward = plain
        console.warn(f"compile: torch.compile does not work here, training goes on without it: {_reason(error)}")
        return
    codes, seconds = counters["stats"]["unique_graphs"] - before, time.monotonic() - started
    console.say(f"compile: {what}, by {codes} codes, in {seconds:.0f} s; {folder} keeps them")


def _capture(encoder: nn.Module, plain: Forward, trial: _Trial) -> bool:
    """Capture the passes of the encoder, compiled or not, and install the replay. Returns whether that succeeded."""
    compiled = encoder.forward
    try:
        expected = [trial(seed) for seed in (1, 2)]  # replays must follow the seed
        with trial.call.mode(trial.images.device):
            torch.cuda.make_graphed_callables(encoder, (trial.images.clone(),))
        replay: Forward = encoder.forward
        encoder.forward = _only(trial.call, encoder, replay if trial.weights else _copied(replay), plain)
        for seed, values in zip((1, 2), expected, strict=True):
            trial.check(trial(seed), values)
    except FAILURES as error:
        encoder.forward = compiled
        console.warn(f"cuda_graph: the encoder cannot be captured, training goes on without it: {_reason(error)}")
        return False
    console.say("cuda_graph: the passes of the backbone are captured")
    return True


def _only(call: _Call, encoder: nn.Module, fast: Forward, plain: Forward) -> Forward:
    """A forward that is `fast` for calls like `call`, and `plain`, with nothing compiled, for all others."""

    def forward(images: Tensor, frame: Any = None) -> list[Tensor]:
        if frame is None and _Call.of(encoder, images) == call:
            with call.mode(images.device):
                return fast(images)
        with torch.compiler.set_stance("force_eager"):
            return plain(images, frame)

    return forward


def _copied(replay: Forward) -> Forward:
    """Maps that outlive the next replay; with a backward pass, none is needed longer."""
    return lambda images: [level.clone() for level in replay(images)]


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def cache_folder() -> str:
    """The folder in which torch keeps compiled code: TORCHINDUCTOR_CACHE_DIR, or mpc/compiled in the user's cache.

    Code in it is run as it is found, so nobody else may enter it. OSError where there can be none.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    given = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if given and given != default_cache_dir():  # torch sets the variable to its default, which all users may enter
        return given
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mpc" / "compiled"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise PermissionError(f"{folder} is not a folder of yours; set TORCHINDUCTOR_CACHE_DIR to one")
    folder.chmod(0o700)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    return str(folder)
