"""The Web UI is a screen that we design."""

import pytest

from tests.ui.album import Album

pytestmark = [pytest.mark.saga, pytest.mark.slow]


async def test_pictures(album: Album) -> None:
    assert album.texts
