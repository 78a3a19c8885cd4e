"""A batch moves to a device with all its tensors, and arrives as a network takes it."""

import torch

from pipelines.dataset.batch import Batch


def test_a_batch_moves_with_all_its_tensors() -> None:
    pixels = torch.full((2, 4, 4, 3), 7, dtype=torch.uint8)
    features = [torch.full((1, 3, 2, 2), 7).half()]
    one = Batch(pixels, pixels[..., 0], ["a", "b"], 0.5, ["0-0", "1-0"], features=features, cached=[1])
    paired = Batch(one.images, one.masks, one.ids, 1.0, one.keys, one.images, one.masks)
    scribbled = Batch(
        one.images, one.masks, one.ids, 1.0, one.keys, forged=torch.tensor([True, False]), scribbles=one.masks
    )
    assert len(one.tensors()) == 3
    assert len(paired.tensors()) == len(scribbled.tensors()) == 4
    for given in (one, paired, scribbled):
        moved = given.on(torch.device("meta"))
        assert {tensor.device.type for tensor in moved.tensors()} == {"meta"}
        assert [tensor.dtype for tensor in moved.tensors()] == [tensor.dtype for tensor in given.tensors()]
        assert (moved.ids, moved.keys, moved.progress, moved.cached) == (
            given.ids,
            given.keys,
            given.progress,
            given.cached,
        )
        inputs = moved.to(torch.device("meta"))
        assert inputs.images.shape == (2, 3, 4, 4)
        assert inputs.images.dtype == torch.float32
        assert inputs.features == moved.features
        assert inputs.forged is moved.forged
        assert inputs.scribbles is moved.scribbles
