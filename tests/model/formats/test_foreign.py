"""Files that are not read: each is called what it is, whatever its suffix."""

import pytest
from image_files import FOREIGN

from mpc_model.errors import DataError
from mpc_model.imaging.decoding import read_picture


@pytest.mark.parametrize("said", FOREIGN)
def test_a_file_is_called_what_it_is_and_no_decoder_sees_it(said, monkeypatch):
    monkeypatch.setattr("cv2.imdecode", None)
    with pytest.raises(DataError, match=rf"^photo\.jpg: {said}") as error:
        read_picture(FOREIGN[said], "photo.jpg")
    assert error.value.reason == "unreadable"
