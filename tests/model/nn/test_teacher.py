"""The teacher: an average in closed form, never trained, in train mode only where batches are normalised."""

import pytest
import torch
from torch import nn

from mpc_model.nn.hrformer import StochasticDepth
from mpc_model.nn.teacher import Teacher, averaging_factor


def test_how_much_of_the_teacher_stays() -> None:
    found = averaging_factor(torch.tensor([0, 1, 2, 9, 999, 5000]), 0.999)
    assert found.tolist() == pytest.approx([0, 0.5, 2 / 3, 0.9, 0.999, 0.999], abs=1e-12)


def test_the_teacher_is_the_closed_form_average_of_the_student() -> None:
    """The mean of the weights at all steps so far, until the decay is reached; after that the decaying average."""
    student = nn.Linear(3, 2).double()
    teacher, decay, history = Teacher([student]), 0.75, []
    for step in range(7):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64))
        history.append(student.weight.detach().clone())
        teacher.follow([student], averaging_factor(torch.tensor(step), decay))
    expected = torch.stack(history[:4]).mean(0)
    for weight in history[4:]:
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(teacher.parts[0].weight, expected)


def test_at_first_the_teacher_is_a_copy_whatever_its_weights_were() -> None:
    student = nn.Linear(3, 2)
    teacher = Teacher([nn.Linear(3, 2)])
    teacher.follow([student], averaging_factor(torch.tensor(0), 0.999))
    assert torch.equal(teacher.parts[0].weight, student.weight)


def test_only_norms_are_in_train_mode_and_nothing_is_trained() -> None:
    teacher = Teacher([nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.5), StochasticDepth(0.5))])
    holder = nn.ModuleList([teacher]).train()
    assert [part.training for part in teacher.parts[0]] == [True, False, False]
    assert not any(parameter.requires_grad for parameter in holder.parameters())
    images = torch.rand(4, 2, 3, 3)
    assert torch.equal(teacher.parts[0](images), teacher.parts[0](images))
    holder.eval()
    assert not any(part.training for part in teacher.modules())
