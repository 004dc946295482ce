"""What a disk refuses, in words."""

import errno
import os
from types import SimpleNamespace

import pytest

from simpletune.disk_words import explain, in_words, why_unwritable


def test_no_number_of_the_system_is_shown():
    assert in_words(OSError(errno.EIO, "Input/output error", "/a/.b.tmp")) == "the disk reports an error of its own"
    assert explain(OSError(errno.EROFS, ""))[1].startswith("make it writable")
    assert explain(OSError(errno.ENOTDIR, "", "a")) == (os.strerror(errno.ENOTDIR), None)
    assert explain(FileNotFoundError(errno.ENOENT, "No such file or directory", "a"))[1] is None
    assert in_words(ValueError("it is no JSON")) == "it is no JSON"


@pytest.mark.skipif(not hasattr(os, "statvfs"), reason="Windows tells nothing of the disk")
def test_a_read_only_disk_is_told_from_a_folder_of_somebody_else(tmp_path, monkeypatch):
    assert why_unwritable(tmp_path) == errno.EACCES
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert why_unwritable(tmp_path) == errno.EROFS
