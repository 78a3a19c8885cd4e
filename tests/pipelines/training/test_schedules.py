"""Learning rates against torch's own schedulers and against formulas."""

import pytest
import torch

from pipelines.config.training import OptimConfig
from pipelines.training.schedules import learning_rate, warmup_warning


def rate(settings: OptimConfig, progress: float = 0.0, metrics: list[float] | None = None, **more: int) -> float:
    where = {"step": 10_000, "total": 20_000, "epoch": 0, **more}
    return learning_rate(settings, progress=progress, metrics=metrics or [], **where)


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)


def test_a_cosine_falls_to_the_floor_over_the_whole_run() -> None:
    cosine = OptimConfig(schedule="cosine", learning_rate=1e-4, floor=1e-8)
    assert rate(cosine, 0.0) == pytest.approx(1e-4)
    assert rate(cosine, 0.5) == pytest.approx((1e-4 + 1e-8) / 2)
    assert rate(cosine, 1.0) == pytest.approx(1e-8)


def test_the_release_s_cosine_has_a_period_in_epochs() -> None:
    settings = OptimConfig(schedule="cosine20", learning_rate=1e-4, floor=1e-8)
    sgd = optimizer()
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=20, eta_min=1e-8)
    for epoch in range(45):
        assert rate(settings, epoch=epoch) == pytest.approx(sgd.param_groups[0]["lr"], rel=1e-6)
        sgd.step()
        theirs.step()


def test_a_plateau_halves_the_rate_as_torch_does() -> None:
    plateau = OptimConfig(schedule="plateau", learning_rate=1e-4, floor=1e-8)
    sgd = optimizer()
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        sgd, mode="max", factor=0.5, patience=3, min_lr=1e-8, threshold=0.0, eps=0.0
    )
    metrics = [0.1, 0.2, 0.2, 0.1, 0.2, 0.15, 0.19, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    for epoch, figure in enumerate(metrics):
        theirs.step(figure)
        assert rate(plateau, 0.5, metrics[: epoch + 1]) == pytest.approx(sgd.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("start", "floor", "total", "expected"),
    [
        (0.009, 0.009 / 100, 1000, {0: 0.009, 500: 0.0048647508, 999: 0.0001077778}),  # MSCCNet
        (0.03, 0.0, 60_000, {0: 0.03, 30_000: 0.0160766019}),  # PCLMix
    ],
)
def test_poly_falls_step_by_step(start: float, floor: float, total: int, expected: dict[int, float]) -> None:
    poly = OptimConfig(schedule="poly", learning_rate=start, floor=floor)
    for step, value in expected.items():
        assert rate(poly, step=step, total=total) == pytest.approx(value, abs=5e-11)
    line = OptimConfig(schedule="poly", learning_rate=start, floor=floor, power=1.0)
    assert rate(line, step=total // 4, total=total) == pytest.approx(floor + (start - floor) * 3 / 4)


def test_a_warm_up_rises_to_the_schedule() -> None:
    settings = OptimConfig(schedule="constant", learning_rate=1e-3, warmup_steps=4)
    assert [rate(settings, step=step) for step in range(6)] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1e-3])


def test_a_training_that_ends_within_its_warm_up_is_warned_of() -> None:
    settings = OptimConfig(schedule="constant", learning_rate=1e-3, warmup_steps=1500)
    warning = warmup_warning(settings, "adapt", 150)
    assert warning == (
        "adapt.warmup_steps is 1500, but the training has 150 steps: its learning rate rises to 10.0% of"
        " adapt.learning_rate; set adapt.warmup_steps=7, a twentieth"
    )
    assert rate(settings, step=149, total=150) == pytest.approx(1e-3 * 150 / 1501)
    assert warmup_warning(settings, "adapt", 1500) is not None
    assert warmup_warning(settings, "adapt", 1501) is None
    assert warmup_warning(OptimConfig(), "finetune", 1) is None


def test_a_protocol_sets_what_was_published_and_given_keys_win() -> None:
    from pipelines.config.training import FinetuneConfig, PretrainConfig

    paper = PretrainConfig(protocol="paper")
    assert (paper.optimizer, paper.learning_rate, paper.weight_decay, paper.schedule) == ("adam", 1e-4, 0.0, "plateau")
    release = FinetuneConfig(protocol="release", learning_rate=3e-6)
    assert (release.optimizer, release.learning_rate, release.schedule) == ("adamw", 3e-6, "cosine20")
    assert FinetuneConfig.model_validate(release.model_dump()) == release
