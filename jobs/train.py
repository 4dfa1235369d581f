"""Train one stage: `python jobs/train.py --stage N [--config nano|paper|paper-771k|FILE] [key=value ...]`.

Alone it joins a Ray on this machine or starts one; under `ray job submit` it joins that cluster.
An interrupted run resumes when it is started again with its `run=NAME`.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import json
import time
from collections.abc import Sequence
from dataclasses import replace

from fireedit.jobs.training.recipe import read_recipe
from fireedit.jobs.training.stage_loop import open_corpora, train_stage
from fireedit.jobs.training.stage_run import refuse_another_run, require_same_corpora, starting_weights, summary
from fireedit.platform import config, storage
from fireedit.platform.cluster import ResourcesError, require_resources, start_ray
from fireedit.platform.config import RecipeError
from fireedit.platform.console import say
from fireedit.platform.data.conversion import TooManyBadRowsError, UnreadablePartError
from fireedit.platform.data.corpora.rows import CorpusError
from fireedit.platform.data.ingest import IngestError
from fireedit.platform.data.mixture import MixtureError
from fireedit.platform.data.preparation import PrepareError, prepare_missing
from fireedit.platform.data.shards import ShardsError
from fireedit.platform.train.launcher import launch
from fireedit.platform.train.runs import Run

FIT = "write workers.count, workers.cpus and ingest.cpus_per_task that fit, for example workers.cpus=0.25"
ERRORS = (
    *(CorpusError, IngestError, MixtureError, PrepareError, RecipeError, ResourcesError, ShardsError),
    *(TooManyBadRowsError, UnreadablePartError),
)


def main(argv: Sequence[str] | None = None) -> None:
    recipe = read_recipe(sys.argv[1:] if argv is None else argv)
    stage_name = f"{recipe.model.preset}-stage{recipe.stage}"
    run = Run(recipe.home, recipe.run or time.strftime(f"{stage_name}-%Y%m%d-%H%M%S"))
    refuse_another_run(recipe, run)
    if run.finished:
        say(f"run {run.name} is finished; write another run=NAME to train anew")
        print(json.dumps(summary(recipe, run)))
        return
    try:
        init_from = starting_weights(recipe, run)
        say(f"run {run.name}: {stage_name} from {init_from}, steps={recipe.steps} minutes={recipe.minutes}")
        storage.write_bytes(run.recipe, config.dump(replace(recipe, run=run.name, init_from=init_from)).encode())
        start_ray()
        require_resources(recipe.bundles, FIT)
        prepare_missing(recipe.home, recipe.mixture, recipe.scenes, recipe.ingest.cpus_per_task)
        require_same_corpora(open_corpora(recipe), run)
    except ERRORS as error:
        sys.exit(f"train.py: {error}")
    settings = {"recipe": recipe, "run": run, "init_from": init_from}
    launch(train_stage, settings, recipe.workers, run.parent, run.name, recipe.keep_checkpoints)
    print(json.dumps(summary(recipe, run)))


if __name__ == "__main__":
    main()
