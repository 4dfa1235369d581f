"""Jobs and errors on their way between processes."""

import math
import pickle

from fireedit.serve.schema import BadRequest, DeadlineExceeded, EditJob


def test_jobs_and_errors_survive_pickling() -> None:
    job = EditJob(settings={"num_inference_steps": 3}, seeds=(1, 2), caller="a", request_id="r")
    assert pickle.loads(pickle.dumps(job)) == job and job.deadline == math.inf and not job.reproducible
    assert str(pickle.loads(pickle.dumps(DeadlineExceeded("late")))) == "late"
    error = pickle.loads(pickle.dumps(BadRequest("n: no", "n", "c")))
    assert (str(error), error.param, error.code) == ("n: no", "n", "c")
