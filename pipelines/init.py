"""`mpc init [FILE]`: a first recipe with comments, which every command accepts as it is."""

import json
import shlex
from pathlib import Path

from mpc_model.errors import UserError
from pipelines.config import recipe
from pipelines.runtime import console

TEMPLATE = """\
# A recipe of mpc. Each job takes it:  mpc build --config {file}
# `mpc config` prints every key, `mpc config build` those of one command. A key on the command line wins:
#   mpc pretrain --config {file} train.batch_size=8

seed: 0
# Results go below this folder, or s3:// prefix; the same command goes on where it was interrupted.
workspace: {workspace}

build:                      # mpc build: photographs, or images with masks, to a pixel dataset
  sources:
    - name: mine
      layout: {layout}        # photos: photographs, which are forged on the way; pairs: images with masks
      location: {location}
{photographs}  split: {{train: 0.8, validation: 0.1, test: 0.1}}    # by photograph, with all that is made of it
  views: {{policy: release, count: 3}}                # renderings stored beside the original

model: {{backbone: hrformer_small, head: mlp4, input_size: 256}}

train:
  workers: 1                # Ray Train workers; 0 trains in this process
  batch_size: 4             # samples of each worker and forward pass
  precision: fp32           # bf16 on GPUs that have it

pretrain: {{epochs: 20, learning_rate: 1.0e-4}}       # mpc pretrain: stage 1, the backbone
finetune: {{epochs: 20, learning_rate: 1.0e-4}}       # mpc finetune: stage 2, the head

register: {{name: mpc-localizer, alias: candidate}}   # mpc register, mpc promote
# predict: {{input: FOLDER}}                          # mpc predict: maps of images of yours
# tracking: {{uri: "http://mlflow.example.com:5000"}} # left out: an SQLite file in the workspace
"""
_PHOTOGRAPHS = """\
      crop: 256             # side of the square crops in pixels
      samples_per_photo: 4
"""


def init(file: str, data: str, layout: str) -> None:
    """Write the recipe to `file`, with images at `data`. UserError where the file is there already, or where
    no command would accept the recipe; then nothing is left behind."""
    text = TEMPLATE.format(
        file=shlex.quote(file),
        workspace=json.dumps(f"runs/{Path(file).stem}", ensure_ascii=False),
        layout=layout,
        location=json.dumps(data, ensure_ascii=False),
        photographs=_PHOTOGRAPHS if layout == "photos" else "",
    )
    try:
        with open(file, "x", encoding="utf-8") as written:
            written.write(text)
    except FileExistsError:
        raise UserError(f"{file} is there already; name another file, or delete it") from None
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from None
    try:
        recipe.load(file)
    except UserError:  # such as a location of another scheme: a recipe that no command accepts must not stay
        Path(file).unlink()
        raise
    console.say(f"init: {file} is written; look at it, then run: mpc build --config {shlex.quote(file)}")
