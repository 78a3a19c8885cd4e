"""The head mscc through the verbs: both forms of stage 2, maps with a score of the image, and what is refused."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from training_runs import at, run, step_metrics, training, weights

from mpc_model.errors import UserError
from mpc_model.localizer import image_probability
from pipelines import tune
from pipelines.artifacts import record
from pipelines.artifacts.model_directory import load_model
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.order import Cursor
from pipelines.evaluate import evaluate
from pipelines.finetune import Finetuning, finetune
from pipelines.predict import predict
from pipelines.pretrain import pretrain
from pipelines.training import validation

SETTINGS = {"frequencies": 4, "weighting": "random"}
HEAD = ("model.head=mscc", "model.head_settings={frequencies: 4, weighting: random}")


@pytest.fixture(scope="module")
def frozen(trained: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The config of a head that was trained on the frozen features of stage 1, by way of the cache."""
    folder = tmp_path_factory.mktemp("mscc")
    outputs = [f"finetune.cache={folder / 'cache'}", f"predict.model={folder / 'finetune' / 'model'}"]
    outputs += [f"evaluate.model={folder / 'finetune' / 'model'}", f"evaluate.output={folder / 'evaluate'}"]
    config = at(trained, folder, *HEAD, *outputs, f"predict.output={folder / 'predict'}", verb="finetune")
    finetune(config)
    return config


def test_what_was_trained_has_its_settings_and_is_evaluated(frozen: Config) -> None:
    assert load_model(str(frozen.predict.model)).spec.head_settings == SETTINGS
    stored = record.read(str(frozen.finetune.output))
    assert stored.identity["model"]["head_settings"] == SETTINGS
    assert evaluate(frozen)["model"]["f1"] is not None


def test_maps_come_with_a_score_of_the_image_and_without_tiles(frozen: Config, photos: Path, tmp_path: Path) -> None:
    config = recipe.revised(frozen, f"predict.input={photos / 'coffee.png'}")
    assert predict(config)["images"] == 1
    table = pd.read_csv(Path(str(config.predict.output), "scores.csv"))
    model = load_model(str(config.predict.model))
    (answer,) = model.answers([cv2.imread(str(config.predict.input))[..., ::-1]])
    assert answer.image is not None
    assert table["head_score"].tolist() == pytest.approx([image_probability(answer.image)], abs=1e-5)
    with pytest.raises(UserError, match="tile is 512, but the head mscc looks at an image as a whole"):
        predict(recipe.revised(config, "predict.tile=512", f"predict.output={tmp_path / 'tiles'}"))
    assert not (tmp_path / "tiles").exists()


def test_the_published_form_goes_on_bit_by_bit(trained: Config, tmp_path: Path) -> None:
    optimizer = "optimizer: sgd, learning_rate: 9.0e-3, weight_decay: 5.0e-4, schedule: poly, floor: 9.0e-5"
    whole_network = "start: scratch, unfreeze: all, backbone_rate: 1.0, loss: cross_entropy, epochs: 1"
    more = [f"finetune={{{whole_network}, {optimizer}}}", *HEAD, "train.checkpoint_every=1"]
    ends = []
    for name, stops in (("whole", []), ("broken", [2])):
        config = recipe.revised(trained, *more, f"finetune.output={tmp_path / name}")
        for stop in stops:
            run(config, Finetuning, stop_after=stop)
        run(config, Finetuning)
        ends.append(weights(config.finetune.output))
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    torch.manual_seed(config.seed)  # as the run does
    fresh = Finetuning(config).localizer.state_dict()
    moved = {".".join(name.split(".")[:2]) for name, tensor in ends[0].items() if not tensor.equal(fresh[name])}
    assert {f"decoder.{part}" for part in ("features", "centres", "classifier", "image")} <= moved
    assert {f"encoder.stage{number}" for number in (2, 3, 4)} <= moved


def test_the_loss_is_the_weighted_sum_of_the_parts(trained: Config, tmp_path: Path) -> None:
    weighed = "finetune.part_weights={mask: 1.0, coarse: 0.5, image: 2.0}"
    config = at(trained, tmp_path, *HEAD, weighed, verb="finetune")
    state = training(config, Finetuning)
    batches = [next(validation.open_split(config, "train").epoch(Cursor()))]
    metrics = step_metrics(state, batches)
    parts = (metrics["mask"], metrics["coarse"], metrics["image"])
    assert metrics["total"] == pytest.approx(float(np.dot((1, 0.5, 2), parts)), rel=1e-5)
    assert all(part > 0 for part in parts)


def test_what_does_not_go_together_is_refused_before_anything_is_written(
    trained: Config, frozen: Config, tmp_path: Path
) -> None:
    def refused(*more: str) -> Config:
        return at(trained, tmp_path, "model.head=mscc", *more)

    with pytest.raises(UserError, match=r"head_settings .*'weighting': 'random'.*set model\.head_settings"):
        finetune(refused("finetune.start=localizer", f"finetune.encoder={frozen.predict.model}"))
    with pytest.raises(UserError, match=r"part_weights\.image is 0.*model\.head_settings\.image=false"):
        finetune(refused("finetune.part_weights.image=0", f"finetune.encoder={frozen.finetune.encoder}"))
    with pytest.raises(UserError, match=r"frequencies is 3, .* one of 1, 2, 4, 8"):
        pretrain(refused("model.head_settings.frequencies=3"))
    assert not (tmp_path / "pretrain").exists()
    assert not (tmp_path / "finetune").exists()


def test_settings_can_be_searched(trained: Config) -> None:
    space = "model.head_settings.spectra: [1, 2], finetune.part_weights.coarse: {least: 0.1, most: 1.0}"
    config = recipe.revised(trained, "model.head=mscc", f"tune.space={{{space}}}")
    tune._check(config)
    with pytest.raises(UserError, match="spectra is 5"):
        tune._check(recipe.revised(config, "tune.space={model.head_settings.spectra: [1, 5]}"))
