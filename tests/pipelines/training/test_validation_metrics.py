"""Metrics of maps on validation images: of one class and of several, whoever scores which batch."""

import pytest
import torch

from mpc_model.localizer import Localizer, ModelSpec
from pipelines.dataset.batch import Batch
from pipelines.training import validation_metrics
from pipelines.training.shares import Shares

CPU = torch.device("cpu")


def batch(labels: torch.Tensor) -> Batch:
    images = torch.randint(0, 256, (*labels.shape, 3), dtype=torch.uint8)
    names = [str(index) for index in range(len(labels))]
    return Batch(images, labels.to(torch.uint8), names, 1.0, [f"{name}-0" for name in names])


@pytest.mark.parametrize("classes", [1, 3])
def test_a_localizer_that_says_one_class_everywhere_has_the_metrics_of_that(classes: int) -> None:
    torch.manual_seed(0)
    localizer = Localizer(ModelSpec("hrformer_tiny", "mlp4", 64, classes=classes)).eval()
    with torch.no_grad():
        last = localizer.decoder.classifier[-1]  # type: ignore[union-attr, index]
        last.weight.zero_()
        last.bias.copy_(torch.arange(1.0, classes + 1))  # the last class, or forged
    labels = torch.zeros(2, 64, 64)
    labels[:, :16] = max(1, classes - 1)
    labels[:, 48:] = 255
    measure = validation_metrics.of_forgeries if classes == 1 else validation_metrics.of_classes
    found, hardest = measure(localizer, [batch(labels), batch(labels)], CPU, Shares())
    if classes == 1:
        assert found["f1"] == pytest.approx(2 / (2 + 2))  # a third of the labelled pixels, all called forged
        assert found["iou"] == pytest.approx(1 / 3)
        assert [(one["id"], one["row"]) for one in hardest] == [("0", 0), ("1", 1)] * 2
    else:
        assert hardest == ()
        assert found["dataset_level.accuracy"] == pytest.approx(1 / 3)
        assert found[validation_metrics.MEAN_IOU] <= 1 / 3


def test_the_samples_with_the_lowest_f1_are_the_hardest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation_metrics, "HARDEST", 2)
    localizer = Localizer(ModelSpec("hrformer_tiny", "mlp4", 64)).eval()
    with torch.no_grad():
        last = localizer.decoder.classifier[-1]  # type: ignore[union-attr, index]
        last.weight.zero_()
        last.bias.fill_(1.0)  # forged everywhere
    labels = torch.zeros(4, 64, 64)
    for number, rows in enumerate((32, 0, 4, 16)):
        labels[number, :rows] = 1
    _, hardest = validation_metrics.of_forgeries(localizer, [batch(labels)], CPU, Shares())
    assert [one["row"] for one in hardest] == [
        2,
        3,
    ]  # the smaller the forged region; an authentic image is none of them
    assert hardest[0]["f1"] == pytest.approx(2 * 4 / 68)
