import pytest

from fireedit.platform.scenes import assets


@pytest.fixture(scope="session")
def noto() -> None:
    """Skip a test where the second artwork is not installed."""
    try:
        assets.noto_font()
    except assets.MissingAssetsError as error:
        pytest.skip(str(error))
