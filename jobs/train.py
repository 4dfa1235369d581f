"""Train one stage: `python jobs/train.py --stage N [--config nano|paper|paper-771k|FILE] [key=value ...]`.

Alone it joins a Ray on this machine or starts one; under `ray job submit` it joins that cluster. With `--local`, or
under `torchrun jobs/train.py --stage N`, it trains without Ray. An interrupted run resumes when it is started again
with its `run=NAME`; SIGTERM, Ctrl-C or a file `stop` in the run's folder make it save and end.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import json
import os
from collections.abc import Sequence

from fireedit.jobs.training.recipe import build_parser, read_recipe
from fireedit.jobs.training.stage_run import run_locally
from fireedit.platform.config import RecipeError
from fireedit.platform.data.corpora.rows import CorpusError
from fireedit.platform.data.ingest import IngestError
from fireedit.platform.data.mixture import MixtureError
from fireedit.platform.data.shards import ShardsError
from fireedit.platform.train.checkpoints import CheckpointError

ERRORS = (CheckpointError, CorpusError, IngestError, MixtureError, RecipeError, ShardsError)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    recipe = read_recipe(argv)
    run = run_locally
    if not (build_parser().parse_intermixed_args(argv).local or "TORCHELASTIC_RUN_ID" in os.environ):
        from fireedit.jobs.training.ray_run import run_on_ray as run  # machines without Ray have no use for it
    try:
        report = run(recipe)
    except ERRORS as error:
        sys.exit(f"train.py: {error}")
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(report))


if __name__ == "__main__":
    main()
