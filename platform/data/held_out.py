"""Held-out rows that runs are validated on: a folder of shards for each corpus under HOME/held_out.

A corpus of real pictures has those of a split that is published for it; of a corpus of scenes they are drawn from a
world whose seeds no training draws.
"""

import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from fireedit.platform import storage
from fireedit.platform.data import catalog, shards
from fireedit.platform.data.sample import Sample
from fireedit.platform.data.shards import Index, Shard, ShardsError
from fireedit.platform.scenes.world import WORLDS

WORLD = WORLDS["unseen_seeds"]
"""World of held-out scenes; the benchmark draws other seeds of it."""


def held_out_root(home: str, name: str = "") -> str:
    """Folder of a corpus's held-out shards, or of those of all corpora."""
    return storage.join(home, "held_out", *filter(None, [name]))


def prepare_held_out(home: str, mixture: Iterable[str], rows: int, size: int) -> list[str]:
    """Draw held-out scenes for the corpora of scenes that have none yet; all have their shards for training.

    Args:
        rows: scenes of a corpus.
        size: pixels a side.
    Returns:
        Corpora that have no held-out rows, and for which no split of them is published.
    Raises:
        ShardsError: there is such a split, but its shards are missing.
    """
    without, missing = [], dict[str, list[str]]()
    for name in mixture:
        if _is_there(held_out_root(home, name), rows):
            continue
        if shards.read_index(storage.join(home, "shards", name)).world:
            _draw(held_out_root(home, name), name, rows, size)
        elif name in catalog.CORPORA and (split := catalog.CORPORA[name].held_out):
            missing.setdefault(split, []).append(name)
        else:
            without.append(name)
    if missing:
        command = f"python jobs/prepare.py shards --out {held_out_root(home)} --corpora"
        commands = [f"{command} {','.join(names)} --split {split}" for split, names in missing.items()]
        raise ShardsError(
            f"validation: no shards of held-out rows of {', '.join(sum(missing.values(), []))}; run: "
            f"{' && '.join(commands)}, or write validate_every=null"
        )
    return without


def read_held_out(home: str, name: str) -> Iterator[Sample]:
    """Read a corpus's held-out rows in an order that never changes; none if it has none."""
    root = held_out_root(home, name)
    if storage.exists(storage.join(root, shards.INDEX)):
        for shard in shards.read_index(root).shards:
            yield from shards.iter_samples(root, shard.name)


def _is_there(root: str, rows: int) -> bool:
    """Check for held-out rows, and that scenes are as many as are wanted."""
    if not storage.exists(storage.join(root, shards.INDEX)):
        return False
    index = shards.read_index(root)
    return index.world != WORLD.name or index.rows >= rows


def _draw(root: str, name: str, rows: int, size: int) -> None:
    """Draw scenes in the corpus's form, and keep the first rows that are read from it as one shard."""
    form = catalog.SCENE_FORMS[name]
    with tempfile.TemporaryDirectory() as folder:
        form.write(Path(folder), form.seeds(WORLD)[:rows], size, WORLD)
        samples = list(islice(catalog.open_corpus(name, folder), rows))
    shard = Shard("000000-000", len(samples))
    shards.write_samples(root, shard.name, samples)
    shards.write_index(root, Index(name, "train", WORLD.name, [shard]))
