"""Scenes as InstructPix2Pix: the parquet files of its Hugging Face set, JPEG of quality 100 as there."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fireedit.platform import images
from fireedit.platform.data.scenes import families, language
from fireedit.platform.data.scenes.render import Renderer
from fireedit.platform.data.scenes.world import World
from fireedit.platform.data.writers.parquet import Column, write_parquet

COLUMNS: dict[str, Column] = {
    "original_prompt": "string",
    "original_image": "image",
    "edit_prompt": "string",
    "edited_prompt": "string",
    "edited_image": "image",
}


def write(folder: Path, seeds: Iterable[int], size: int, world: World) -> None:
    """One edit of any family per seed, its pictures `size` pixels square."""
    write_parquet(folder / "data", "train", COLUMNS, _rows(seeds, size, world))


def _rows(seeds: Iterable[int], size: int, world: World) -> Iterator[dict[str, Any]]:
    renderer = Renderer()
    for seed in seeds:
        edit = families.make_edit(world, seed)
        yield {
            "original_prompt": language.caption(edit.source, seed),
            "original_image": images.encode_jpeg(renderer.draw(edit.source, size).image, quality=100),
            "edit_prompt": edit.instruction,
            "edited_prompt": language.caption(edit.target, seed),
            "edited_image": images.encode_jpeg(renderer.draw(edit.target, size).image, quality=100),
        }
