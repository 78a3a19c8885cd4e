"""`mpc demo`: the verbs one after the other on real photographs, then a table, pictures and what to try next.

The verbs do all the work: this module only chooses the photographs and prints.
"""

import hashlib
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mpc_model.formats import jpeg
from mpc_model.imaging.codecs import IMAGE_SUFFIXES
from pipelines.commands import COMMANDS
from pipelines.config.recipe import load, revised
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.dataset.schema import SPLITS, Row
from pipelines.ingest import example_photos
from pipelines.runtime import console, environment, storage, uris
from pipelines.runtime.canonical import canonical_json

EXAMPLES = 8
_CANDIDATE = "predict.model=models:/{0.name}@{0.alias}"
STAGES = ("build", "pretrain", "finetune", "evaluate", "register", "promote", "predict")
"""The commands that the demo runs, in this order."""


def demo(recipe: str, overrides: Sequence[str]) -> None:
    """Run the whole pipeline; what is finished is reused."""
    config = _settle(recipe, overrides)
    for line in environment.unused(with_s3="s3://" in config.model_dump_json()):
        console.say(line)
    from pipelines.model_registry.audit_trail import Refused
    from pipelines.tracking import runs
    from pipelines.tracking.results import record

    seconds: dict[str, float] = {}
    results: dict[str, Any] = {}
    with runs.running(config, "demo"):
        for name in STAGES:
            command = COMMANDS[name]
            if name == "predict":
                console.say("\n== examples")
                _write_examples(config)
                champion = f"models:/{config.register_.name}@{config.promote.target}"
                if "promote" not in results and config.predict.model == champion:  # there may be none
                    config = revised(config, _CANDIDATE.format(config.register_))
            console.say(f"\n== {name}")
            started = time.monotonic()
            try:
                results[name] = command.call(config)
            except Refused as refused:  # for instance a model that is worse than the one before it
                console.say(f"{name}: {refused}")
            if command.metrics:
                record(config, command, results[name])
            seconds[name] = time.monotonic() - started
    print(_table(config, results, seconds), flush=True)


def _settle(recipe: str, overrides: Sequence[str]) -> Config:
    """The config with the location of the photographs. The user's own photographs get a separate workspace."""
    config = load(recipe, overrides)
    chosen = config.demo.photos
    if chosen is None:
        derived = [f"build.sources.0.location={_yaml(example_photos.photographs())}"]
    else:
        name = f"demo-{hashlib.sha256(chosen.encode()).hexdigest()[:8]}"
        # As many samples as from the shipped photographs, whatever their number, so that the demo takes minutes only.
        samples = config.build.sources[0].samples_per_photo * example_photos.COUNT
        crops = max(1, samples // max(1, len(storage.list_files(chosen, IMAGE_SUFFIXES))))
        derived = [
            f"build.sources.0.location={_yaml(chosen)}",
            f"build.sources.0.samples_per_photo={crops}",
            f"workspace={_yaml(f'runs/{name}')}",
        ]
    workspace = load(recipe, overrides, derived).workspace
    return load(recipe, overrides, [*derived, f"predict.input={_yaml(uris.join(workspace, 'examples'))}"])


def _yaml(value: Any) -> str:
    return str(canonical_json(value), "ascii")


def _write_examples(config: Config) -> None:
    """Write test images as files for `predict` to read: half of them forged, half authentic."""
    folder = str(config.predict.input)
    manifest = Manifest.read(str(config.build.output))
    reader = ShardReader(str(config.build.output), manifest, "test")
    by_kind: dict[bool, list[Row]] = {True: [], False: []}
    for group in range(len(reader.sizes)):
        for row in reader.read(group, ("id", "kind", "views")):
            by_kind[row["kind"] != "authentic"].append(row)
    chosen = [*by_kind[True][: EXAMPLES // 2], *by_kind[False][: EXAMPLES // 2]]
    for row in chosen:
        suffix = "jpg" if row["views"][0]["image"].startswith(jpeg.MAGIC) else "png"
        name = f"{row['kind']}-{row['id'][:8]}.{suffix}"
        if not storage.exists(uris.join(folder, name)):
            storage.write_bytes(uris.join(folder, name), row["views"][0]["image"])
    console.say(f"examples: {len(chosen)} test images as files in {folder}")


def _shown(value: float | None, digits: int = 2) -> str:
    """A metric in the table; a dash where it is not defined."""
    return "-" if value is None else f"{value:.{digits}f}"


def _typed_command(command: str) -> str:
    """A command as the user can type it: its name if it is on the PATH, else its path next to this Python."""
    return command if shutil.which(command) else os.path.relpath(Path(sys.executable).with_name(command))


def _table(config: Config, results: dict[str, Any], seconds: dict[str, float]) -> str:
    """A summary of the results in about twenty lines."""
    dataset, metrics, registered = results["build"], results["evaluate"], results["register"]
    splits = ", ".join(f"{name} {dataset.splits[name].samples}" for name in SPLITS)
    lines = ["", f"dataset    {splits} samples; fingerprint {dataset.fingerprint[:12]}"]
    for stage in ("pretrain", "finetune"):
        losses = results[stage]["losses"]
        path = " -> ".join(f"{loss:.3g}" for loss in losses)
        lines.append(f"{stage:<10} {results[stage]['step']} steps; mean loss of each epoch {path}")
    count = metrics["model"]["forged_images"]
    lines += ["", f"test, mean over {count} forged images at threshold {metrics['threshold']}      F1     IoU"]
    names = {
        "model": "this model",
        "untrained": "the same network, untrained",
        "everything_forged": "everything forged",
    }
    for key, name in names.items():
        lines.append(f"  {name:<52}{_shown(metrics[key]['f1'], 3):>6}  {_shown(metrics[key]['iou'], 3):>6}")
    by_kind = ", ".join(f"{kind} {_shown(f1)}" for kind, f1 in metrics["f1_by_kind"].items()) or "none is forged"
    moved = results.get("promote")
    champion = f"{moved['alias']} is version {moved['version']}" if moved else "not promoted, for the reasons above"
    degraded = ", ".join(
        f"{name} {_shown(degraded_metrics['f1'])}" for name, degraded_metrics in metrics["robustness"].items()
    )
    overlays = uris.join(str(config.predict.output), "overlays")
    places = [*metrics["pictures"], overlays, uris.join(str(config.build.output), "report.html")]
    lines += [
        f"  this model's F1 by kind of forgery: {by_kind}",
        *([f"  and of degraded images: {degraded}"] if degraded else []),
        "",
        f"registered {registered['name']} version {registered['version']}, alias {registered['alias']}; {champion}",
        "seconds    " + ", ".join(f"{name} {spent:.0f}" for name, spent in seconds.items()),
        "",
        *(f"{label:<11}{place}" for label, place in zip_longest(["look at"], places, fillvalue="")),
        f"try        {_typed_command('mpc')} predict --config demo {shlex.quote('workspace=' + config.workspace)}"
        f"{'' if moved else ' ' + _CANDIDATE.format(config.register_)}"
        " predict.input=FOLDER predict.output=FOLDER-maps   # maps of your images",
        "           make demo DATA=FOLDER   # the whole pipeline on your photographs",
        f"           {_typed_command('mlflow')} ui --backend-store-uri {shlex.quote(str(config.tracking.uri))}",
    ]
    return "\n".join(lines)
