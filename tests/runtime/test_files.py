from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgekit.runtime.errors import OutputError
from edgekit.runtime.files import check_output, replace_atomically


def test_a_failure_midway_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_text("old")

    def write_half() -> None:
        with replace_atomically(target) as staged:
            staged.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_success_moves_the_file_and_its_companions(tmp_path: Path) -> None:
    target = tmp_path / "new" / "model.onnx"
    with replace_atomically(target) as staged:
        staged.write_text("model")
        (staged.parent / "model.onnx.data").write_text("tensors")
    assert target.read_text() == "model"
    assert sorted(p.name for p in target.parent.iterdir()) == ["model.onnx", "model.onnx.data"]


def test_output_gets_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with replace_atomically(tmp_path / "model.onnx") as staged:
        staged.touch(0o600)
    assert (tmp_path / "model.onnx").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_existing_output_needs_force(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.touch()
    with pytest.raises(OutputError, match="--force"):
        check_output(target)
    check_output(target, force=True)


def test_output_equal_to_an_input_is_refused_even_with_force(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.touch()
    link = tmp_path / "link.onnx"
    link.symlink_to(model)
    with pytest.raises(OutputError, match="also the input"):
        check_output(link, force=True, inputs=[model])


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    fifo, link, folder = tmp_path / "fifo", tmp_path / "link", tmp_path / "folder.onnx"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    folder.mkdir()
    for target, reason in ((fifo, "no regular"), (link, "no regular"), (folder, "is a folder")):
        with pytest.raises(OutputError, match=reason):
            check_output(target, force=True)
        with pytest.raises(OutputError, match=reason), replace_atomically(target) as staged:
            staged.write_text("model")
    assert fifo.is_fifo()
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [fifo, folder, link]


def test_an_output_folder_may_exist_but_be_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"):
        check_output(tmp_path / "file", force=True, folder=True)
    check_output(tmp_path, force=True, folder=True)


def test_an_output_equal_to_another_is_refused_before_either_exists(tmp_path: Path) -> None:
    first, second = tmp_path / "model.onnx", tmp_path / "other" / ".." / "model.onnx"
    with pytest.raises(OutputError, match="choose another --report"):
        check_output(second, outputs=[first], flag="--report")
    check_output(second, outputs=[tmp_path / "other.onnx"])


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="not a folder"):
        check_output(tmp_path / "file" / "model.onnx")
    with (
        pytest.raises(OutputError, match="cannot be written"),
        replace_atomically(tmp_path / "file" / "model.onnx"),
    ):
        pass
