"""Pictures of evaluations, read with errors that name their file."""

import numpy as np

from fireedit.platform import images, storage


def read_picture(address: str) -> np.ndarray:
    """Decode the picture at an address to uint8 RGB [H, W, 3].

    Raises:
        ImageError: there is no such file, or it is no picture; the message names it.
    """
    try:
        return images.decode(storage.read_bytes(address))
    except (OSError, images.ImageError) as error:
        raise images.ImageError(f"{address}: {error}") from None
