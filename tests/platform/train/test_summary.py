"""A summary tells the first and last losses of a run, and what became of every corpus."""

from fireedit.platform.train.summary import summarize


def row(step: int, **more: float) -> dict[str, float]:
    return {"step": step, "loss": float(step), "samples_per_s": 10.0, "share/a": 0.7, "epochs/a": step / 10, **more}


def test_a_run_is_summed_up_by_its_first_and_last_steps() -> None:
    rows = [row(step, **{"loss/a": 2.0 * step}) for step in range(10, 101, 10)]
    found = summarize(rows, {"a": 3.0}, log_every=10)
    assert (found["step"], found["samples_per_s"]) == (100, 10.0)
    assert (found["first"]["loss"], found["last"]["loss"]) == (15.0, 95.0)
    assert "loss/a" not in found["last"]
    assert found["mixture"] == {"a": {"weight": 1.0, "share": 0.7, "epochs": 10.0, "loss": 190.0}}


def test_one_report_is_first_and_last() -> None:
    found = summarize([row(2)], {"a": 1.0}, log_every=10)
    assert found["first"] == found["last"] and found["mixture"]["a"]["loss"] is None


def test_a_short_run_is_halved() -> None:
    found = summarize([row(10), row(20)], {"a": 1.0}, log_every=10)
    assert (found["first"]["loss"], found["last"]["loss"]) == (10.0, 20.0)
