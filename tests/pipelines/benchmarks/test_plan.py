"""The benchmark of the plan lists, screens and plans every sample."""

from pathlib import Path

from pipelines.benchmarks import plan


def test_both_plans_hold_every_sample(tmp_path: Path) -> None:
    share = 0.001
    results = plan.measure_plans(tmp_path, share)
    pairs, coco = results["pairs"], results["coco"]
    assert pairs["listed"] == sum(round(share * count) for count in plan.PROTOCOL.values())
    assert coco["listed"] == round(share * plan.PHOTOS) * plan.PER_PHOTO
    for measured in (pairs, coco):
        assert measured["planned"] + measured["rejected"] == measured["listed"]
        assert measured["rejected"] > 0
        assert {"list_seconds", "sort_out_seconds", "plan_seconds"} <= set(measured)  # names of earlier results
        assert measured["peak_mib"] > 50  # the imports alone need that
    assert sum(plan.PROTOCOL.values()) == 843_991
