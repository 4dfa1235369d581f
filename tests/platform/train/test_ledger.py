"""The samples of a run can be read back in order, whatever its workers and however often it was resumed."""

from pathlib import Path

from fireedit.platform.train.ledger import Ledger
from tests.factories import read_ledger

IDS = [[f"edits/{2 * batch}", f"answers/{2 * batch + 1}"] for batch in range(12)]


def write(folder: Path, steps: range, workers: int, first: int) -> None:
    """Write the ledgers of `workers` over `steps`, a batch each from number `first` on."""
    ledgers = [Ledger(str(folder), rank) for rank in range(workers)]
    for turn, step in enumerate(steps):
        for rank, ledger in enumerate(ledgers):
            number = first + turn * workers + rank
            ledger.add(step, number, IDS[number])
    for ledger in ledgers:
        ledger.write(steps[-1])


def test_batches_are_ordered_over_all_workers(tmp_path: Path) -> None:
    write(tmp_path, range(1, 3), workers=3, first=0)
    write(tmp_path, range(3, 5), workers=1, first=6)
    write(tmp_path, range(5, 7), workers=2, first=8)
    assert read_ledger(str(tmp_path)) == IDS
    assert len(list(tmp_path.iterdir())) == 6, "a file for each worker and checkpoint"


def test_a_file_holds_only_the_batches_since_the_last_checkpoint(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), rank=0)
    for step in range(1, 5):
        ledger.add(step, step - 1, IDS[step - 1])
        if step % 2 == 0:
            ledger.write(step)
    assert [len(path.read_text().splitlines()) for path in sorted(tmp_path.iterdir())] == [2, 2]
    assert read_ledger(str(tmp_path)) == IDS[:4]


def test_steps_repeated_after_a_crash_add_their_batches_again(tmp_path: Path) -> None:
    write(tmp_path, range(1, 5), workers=1, first=0)
    write(tmp_path, range(3, 6), workers=1, first=2)
    assert read_ledger(str(tmp_path)) == IDS[:5]
