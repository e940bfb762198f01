"""Stamps and bounded reading of files that others replace, also by what is no file."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mailflow.observe.file_stamp import read_bounded, read_stamp


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.mkdir()


def lead_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [make_pipe, make_folder, lead_to_a_device])
def test_what_is_no_file_is_an_error_at_once_and_leaves_no_descriptor(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "aliases")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match=r"regular file|Is a directory"):
        read_bounded(tmp_path / "aliases", 100)
    assert os.listdir("/proc/self/fd") == before


def test_a_file_is_read_no_further_than_shows_that_it_is_too_large(tmp_path: Path) -> None:
    file = tmp_path / "aliases"
    file.write_bytes(b"x" * 50)
    assert read_bounded(file, 50) == b"x" * 50
    assert read_bounded(file, 49) == b"x" * 50
    assert len(read_bounded(file, 10)) == 11


def rewrite(file: Path) -> None:
    file.write_text("two")
    os.utime(file, (1e9, 1e9))


def change_rights(file: Path) -> None:
    file.chmod(0o600)


@pytest.mark.parametrize("change", [rewrite, change_rights])
def test_a_change_that_leaves_size_and_time_makes_another_stamp(tmp_path: Path, change: Callable[[Path], None]) -> None:
    file = tmp_path / "aliases"
    file.write_text("one")
    os.utime(file, (1e9, 1e9))
    before = read_stamp(file)
    deadline = time.monotonic() + 5
    while read_stamp(file) == before:  # the kernel's clock of files ticks a few hundred times a second
        change(file)
        assert time.monotonic() < deadline
