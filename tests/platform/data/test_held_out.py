"""Held-out rows are drawn once and never trained on; a published split that is missing is named by its command."""

from itertools import islice
from pathlib import Path

import pytest

from fireedit.platform import storage
from fireedit.platform.data.held_out import held_out_root, prepare_held_out, read_held_out
from fireedit.platform.data.ingest import Corpora, IngestConfig
from fireedit.platform.data.shards import Index, Shard, ShardsError, write_index


def train_on(home: Path, world: str, *names: str) -> None:
    """Write indices of shards for training."""
    for name in names:
        write_index(str(home / "shards" / name), Index(name, "train", world, [Shard("000000-000", 4)]))


def test_scenes_are_drawn_once_and_more_rows_begin_with_the_same(tmp_path: Path) -> None:
    train_on(tmp_path, "train", "magicbrush", "llava_instruct")
    assert prepare_held_out(str(tmp_path), ["magicbrush", "llava_instruct"], rows=2, size=32) == []
    few = list(read_held_out(str(tmp_path), "magicbrush"))
    assert len(few) == 2 and all(sample.source and sample.target and not sample.error for sample in few)
    index = Path(held_out_root(str(tmp_path), "magicbrush"), "index.json")
    written = index.stat().st_mtime_ns
    prepare_held_out(str(tmp_path), ["magicbrush"], rows=1, size=32)
    assert index.stat().st_mtime_ns == written, "kept"
    prepare_held_out(str(tmp_path), ["magicbrush"], rows=3, size=32)
    more = read_held_out(str(tmp_path), "magicbrush")
    assert list(islice(more, 2)) == few and len(list(more)) == 1


def test_held_out_scenes_are_refused_for_training(tmp_path: Path) -> None:
    train_on(tmp_path, "train", "refcoco")
    prepare_held_out(str(tmp_path), ["refcoco"], rows=1, size=32)
    with pytest.raises(ShardsError, match="held out of training: they are of world 'unseen_seeds'"):
        Corpora(held_out_root(str(tmp_path)), {"refcoco": 1}, 0, IngestConfig())


def test_missing_shards_of_published_splits_name_the_commands(tmp_path: Path) -> None:
    train_on(tmp_path, "", "magicbrush", "refcoco", "grefcoco", "ultraedit", "mine")
    root = held_out_root(str(tmp_path))
    with pytest.raises(ShardsError) as error:
        prepare_held_out(str(tmp_path), ["ultraedit", "refcoco", "magicbrush", "grefcoco"], rows=2, size=32)
    command = f"python jobs/prepare.py shards --out {root} --corpora"
    assert f"{command} refcoco,grefcoco --split val && {command} magicbrush --split dev, or" in str(error.value)
    assert prepare_held_out(str(tmp_path), ["ultraedit", "mine"], rows=2, size=32) == ["ultraedit", "mine"]
    assert list(read_held_out(str(tmp_path), "mine")) == []


def test_shards_of_ones_own_are_used_however_few(tmp_path: Path) -> None:
    train_on(tmp_path, "", "mine")
    own = Index("mine", "val", "", [Shard("000000-000", 1)])
    write_index(held_out_root(str(tmp_path), "mine"), own)
    assert prepare_held_out(str(tmp_path), ["mine"], rows=8, size=32) == []
    assert storage.names(held_out_root(str(tmp_path), "mine")) == ["index.json"]
