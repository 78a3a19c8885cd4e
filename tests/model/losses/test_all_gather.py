"""Real processes that gather tensors of one another, and contrast with them what one process would."""

import pytest
import torch
from torch import Tensor

from mpc_model.losses.all_gather import gather, gathered, summed
from mpc_model.losses.contrast import multi_view_contrast

FORMS = ("release", "paper")
READINGS = ("within_image", "cross_scale", "cross_modality", "total")


def own_rows(rank: int) -> Tensor:
    return torch.arange(6.0).reshape(2, 3) + 100 * rank


def exchanged(rank: int) -> dict:
    """What arrives, and the gradient of a loss that weighs it by rank + 1 and the row's place."""
    rows = own_rows(rank).requires_grad_()
    found = gather(rows)
    loss = (rank + 1) * (found.flatten(0, 1).sum(1) @ torch.arange(1.0, 5))
    loss.backward()
    some = rows[: rank + 1]  # ranks may have batches of different sizes
    return {
        "found": found.detach(),
        "gradient": rows.grad,
        "sum": summed(torch.tensor([rank, 5])),
        "padded": gathered(some, 3),
        "real": gathered(torch.ones(len(some), dtype=torch.bool), 3),
    }


def batch() -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Five images: rank 0 of two gets two, one of them of one class; rank 1 of two gets three, one of them ignored."""
    generator = torch.Generator().manual_seed(0)
    first, second = (
        [torch.randn(5, 4, 8 >> k, 8 >> k, generator=generator, requires_grad=True) for k in range(4)] for _ in range(2)
    )
    mask = (torch.rand(5, 8, 8, generator=generator) < 0.4).to(torch.uint8)
    mask[0] = 1
    mask[3] = 255
    return first, second, mask


SPLITS = {"both ranks have images": [slice(0, 2), slice(2, 5)], "one rank has none": [slice(0, 1), slice(1, 5)]}


def contrasted(first: list[Tensor], second: list[Tensor], mask: Tensor, **options) -> dict:
    """Readings and the gradients of all losses, for every form and with and without gradients to the lenders."""
    results: dict = {}
    for form in FORMS:
        for lenders in (True, False):
            found = multi_view_contrast(
                first,
                second,
                mask,
                generator=torch.Generator().manual_seed(0),
                form=form,
                gather_gradients=lenders,
                shared_negatives=64,  # all of them, so that nothing depends on a draw
                **options,
            )
            inputs = [*first, second[0]]
            gradients = [torch.autograd.grad(found[name], inputs, retain_graph=True) for name in READINGS]
            results[form, lenders] = ({name: value.item() for name, value in found.items()}, gradients)
    return results


def parts(rank: int) -> dict:
    first, second, mask = batch()
    results = {}
    for name, split in SPLITS.items():
        mine = split[rank]
        maps = [[x.detach()[mine].requires_grad_() for x in maps] for maps in (first, second)]
        results[name] = contrasted(*maps, mask[mine], negatives="ranks", batch_size=4)
    return results


def test_tensors_of_all_ranks_arrive_and_their_gradients_return(two_ranks):
    for rank, result in enumerate(two_ranks.run(exchanged)):
        assert torch.equal(result["found"], torch.stack([own_rows(0), own_rows(1)]))
        # (1 + 2) times the row's place, in each of its three channels
        places = torch.arange(1.0, 5).split(2)[rank]
        assert torch.equal(result["gradient"], 3 * places[:, None].expand(-1, 3))
        assert result["sum"].tolist() == [1, 10]
        assert torch.equal(result["padded"][result["real"]], torch.cat([own_rows(0)[:1], own_rows(1)]))
        assert result["real"].tolist() == [True, False, False, True, True, False]
        assert not result["padded"].requires_grad
        assert not result["padded"][~result["real"]].any()


def test_one_process_gathers_and_sums_what_it_has():
    rows = own_rows(0).requires_grad_()
    assert torch.equal(gathered(rows, 3), torch.cat([own_rows(0), torch.zeros(1, 3)]))
    assert torch.equal(summed(rows), own_rows(0))


def test_ranks_give_on_average_what_one_process_gives_the_whole_batch(two_ranks):
    results = two_ranks.run(parts)
    expected = contrasted(*batch(), negatives="batch")
    alone = contrasted(*batch(), negatives="ranks")
    for key, (wanted, wanted_gradients) in expected.items():
        assert alone[key][0] == wanted  # without a process group
        for split in SPLITS:
            readings, gradients = zip(*(result[split][key] for result in results), strict=True)
            assert sum(found["images"] for found in readings) == wanted["images"] == 3
            for name in READINGS:
                assert sum(found[name] for found in readings) / 2 == pytest.approx(wanted[name], rel=1e-5), name
            for of_loss, wanted_of_loss in zip(zip(*gradients, strict=True), wanted_gradients, strict=True):
                for pieces, whole in zip(zip(*of_loss, strict=True), wanted_of_loss, strict=True):
                    # Data-parallel training averages gradients of parameters, so each rank's counts for half.
                    torch.testing.assert_close(torch.cat(pieces) / 2, whole, rtol=1e-4, atol=1e-6)


def test_lenders_get_a_gradient_only_if_they_may():
    first, second, mask = batch()
    found = contrasted(first, second, mask, negatives="batch")
    for form in FORMS:
        within = {lenders: found[form, lenders][1][0][0] for lenders in (True, False)}
        assert within[True][0].abs().max() > 0  # the image of one class lends
        assert within[False][0].abs().max() == 0
        assert within[False][1].abs().max() > 0
        assert found[form, True][0] == found[form, False][0]
