from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.runtime.errors import DataError, ModelFileError, naming


def test_what_is_wrong_with_a_model_begins_with_its_file_once() -> None:
    for message in ("the model is broken", "m.onnx: the model is broken"):
        with pytest.raises(ModelFileError) as caught, naming(Path("m.onnx")):
            raise ModelFileError(message)
        assert str(caught.value) == "m.onnx: the model is broken"
    with pytest.raises(DataError, match=r"^no data$"), naming(Path("m.onnx")):
        raise DataError("no data")
