"""Pictures of evaluations: a file that cannot be read is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fireedit.jobs.evaluation.picture_files import read_picture
from fireedit.platform.images import ImageError
from tests.factories import picture


def test_a_picture_is_read_and_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture(1)).save(path)
    assert np.array_equal(read_picture(str(path)), picture(1))
    path.write_text("hello")
    with pytest.raises(ImageError, match=f"^{path}: found 5 bytes that begin with b'hello'; send a PNG"):
        read_picture(str(path))
    with pytest.raises(ImageError, match=f"^{tmp_path / 'gone.png'}: "):
        read_picture(str(tmp_path / "gone.png"))
