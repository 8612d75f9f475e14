"""Files that a user or a repository names are regular, of a bounded size, and end in one clear line otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sith_hf.core.reading import (
    json_fields,
    open_regular,
    read_bytes,
    read_input,
    read_start,
    read_text,
    read_text_input,
)
from sith_hf.errors import InputError

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")


def endless(tmp_path, kind):
    """A path that never ends, or that a reader waits for."""
    if kind == "pipe":
        os.mkfifo(tmp_path / "it")
    elif kind == "link to a device":
        (tmp_path / "it").symlink_to("/dev/zero")
    else:
        return Path(kind)
    return tmp_path / "it"


@needs_pipes
@pytest.mark.parametrize("kind", ["pipe", "link to a device", "/dev/zero", "/dev/full"])
def test_what_never_ends_is_not_opened(kind, tmp_path):
    path = endless(tmp_path, kind)
    for read in (open_regular, read_bytes, read_text):
        with pytest.raises(OSError, match="not a regular file"):
            read(path)
    with pytest.raises(InputError, match="the prompt could not be read"):
        read_input(path, "the prompt", "name a file", 10)
    assert json_fields(path) == {}


def test_a_limit_counts_bytes(tmp_path):
    path = tmp_path / "it"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_bytes(path, 4)
    with pytest.raises(InputError, match="it: the prompt may have at most 4 bytes"):
        read_input(path, "the prompt", "name a file", 4)


def test_a_file_that_claims_terabytes_is_refused_unread(tmp_path):
    with (tmp_path / "it").open("wb") as file:
        file.truncate(2**42)
    with pytest.raises(OSError, match="more than"):
        read_bytes(tmp_path / "it")


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 200_000])
def test_every_byte_is_read(size, tmp_path):
    content = os.urandom(size)
    (tmp_path / "it").write_bytes(content)
    assert read_bytes(tmp_path / "it") == content
    assert read_bytes(tmp_path / "it", size) == content


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc")
def test_a_file_without_a_size_is_read():
    assert b"Name:" in read_bytes("/proc/self/status")


def test_a_folder_and_no_file(tmp_path):
    with pytest.raises(InputError, match="is a folder; name one"):
        read_input(tmp_path, "the prompt", "name one", 10)
    for name in ("nothing", "nothing/below"):
        with pytest.raises(InputError, match="no such file; name one"):
            read_input(tmp_path / name, "the prompt", "name one", 10)
    with pytest.raises(InputError, match="could not be read"):
        read_input(tmp_path / "a\0b", "the prompt", "name one", 10)


def test_other_bytes_than_utf8(tmp_path):
    (tmp_path / "it").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="is not UTF-8"):
        read_text_input(tmp_path / "it", "the prompt", "name one", 10)
    with pytest.raises(ValueError, match="utf-8"):
        read_text(tmp_path / "it")
    assert json_fields(tmp_path / "it") == {}


@pytest.mark.parametrize("content", ["", "{", "[1]", "3", "[" * 100_000, '{"a": 1}'], ids=lambda text: text[:8])
def test_fields_of_a_file_that_may_be_damaged(tmp_path, content):
    (tmp_path / "it").write_text(content)
    assert json_fields(tmp_path / "it") == ({"a": 1} if content == '{"a": 1}' else {})
    assert json_fields(tmp_path / "missing") == {}


def test_the_start_of_a_file(tmp_path):
    (tmp_path / "it").write_bytes(b"12345")
    assert (read_start(tmp_path / "it", 3), read_start(tmp_path / "it", 9)) == (b"123", b"12345")
    with pytest.raises(OSError, match="not a regular file"):
        read_start("/dev/zero", 1)
