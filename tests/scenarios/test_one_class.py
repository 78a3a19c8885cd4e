"""Test splits of one class alone, through evaluate, register and promote as users call them."""

import json
from pathlib import Path

import cv2
import pytest

from pipelines import cli
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest


def call(capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, str]:
    """Exit code and what was said."""
    code = cli.main(list(command))
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return code, said.err + said.out


@pytest.mark.slow
@pytest.mark.parametrize("forged", [False, True], ids=["authentic", "forged"])
def test_a_split_of_one_class_is_evaluated_registered_and_promoted_or_refused_with_the_reason(
    trained: Config, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], forged: bool
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    if forged:
        for photo in photos.glob("*.png"):  # turned: the training data has the photographs as they are
            cv2.imwrite(str(folder / photo.name), cv2.flip(cv2.imread(str(photo)), -1))
        source = {"name": "new", "layout": "photos", "location": str(folder), "crop": 64, "samples_per_photo": 2}
        source |= {"split": "test", "forge": {"splice": 0, "copy_move": 1, "copy_move_outline": 0, "remove": 0}}
    else:
        (folder / "authentic").symlink_to(photos)
        source = {"name": "new", "layout": "pairs", "location": str(folder), "split": "test", "limit": 4}
    (tmp_path / "empty.yaml").touch()
    common = [
        "--config",
        str(tmp_path / "empty.yaml"),
        f"workspace={tmp_path / 'ws'}",
        f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}",
    ]
    model = f"{trained.finetune.output}/model"
    code, said = call(capsys, "build", *common, f"build.sources=[{json.dumps(source)}]", "build.max_reject_fraction=1")
    assert code == 0, said
    split = Manifest.read(str(tmp_path / "ws" / "dataset")).splits["test"]
    assert split.forged == (split.samples if forged else 0)
    code, said = call(capsys, "evaluate", *common, f"evaluate.model={model}")
    assert code == 0, said
    assert ("F1 0." in said) is forged
    assert ("no F1, since no forged image is scored" in said) is not forged
    metrics = json.loads((tmp_path / "ws" / "evaluate" / "metrics.json").read_text())
    assert (metrics["model"]["f1"] is None) is not forged
    assert (metrics["model"]["false_alarm_rate"] is None) is forged
    code, said = call(capsys, "register", *common, f"register.model={model}")
    assert code == 0, said
    code, said = call(capsys, "promote", *common, "promote.baselines=[]", "promote.min_images=1")
    if forged:
        assert code == 0, said
        assert "champion" in said
    else:
        assert code == 1
        assert "F1 cannot be compared" in said
        assert "evaluate both versions on a split with forged images too" in said
    again, said = call(capsys, "evaluate", *common, f"evaluate.model={model}")
    assert again == 0
    assert "reusing the finished" in said
