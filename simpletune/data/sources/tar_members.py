"""The files in a tar archive, and where in it their bytes are: found by hopping from header to header.

Plain headers, which nearly all are, are read here, as making a TarInfo of each takes five times as long; whatever is
not plain (long names, PAX headers, links, other numbers) is left to `tarfile`.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(_BLOCK)
_PLAIN_FILE = ord("0")

_COMPRESSED = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))


class Member(NamedTuple):
    """A file of an archive: `offset` and `size` in bytes say where its content is."""

    name: str
    offset: int
    size: int


class DamagedArchive(Exception):
    """An archive ends, or stops making sense, before its end mark. What came before is good."""


def compression(file: BinaryIO) -> str | None:
    """What a file is compressed with, by its first bytes; None when it isn't."""
    file.seek(0)
    start = file.read(8)
    return next((name for signature, name in _COMPRESSED if start.startswith(signature)), None)


def members(file: BinaryIO, size_bytes: int) -> Iterator[Member | None]:
    """The members of an uncompressed archive of this size, in order; None for one that is no ordinary file or folder.

    Raises DamagedArchive when the archive doesn't go on to its end mark, OSError when the file can't be read.
    """
    archive, offset = None, 0
    while True:
        file.seek(offset)
        block = file.read(_BLOCK)
        if block == _END:
            return
        if len(block) < _BLOCK:
            raise DamagedArchive(f"it ends at byte {size_bytes} without a tar's end mark")
        plain = _plain(block, offset) if archive is None or not archive.pax_headers else None
        if plain is not None:
            found: Member | None = plain
            after = plain.offset + _padded(plain.size)
        else:
            # Opened to be written, it doesn't read on by itself; the file underneath can only be read.
            archive = archive or tarfile.TarFile(fileobj=file, mode="w", encoding="utf-8")
            member = _member_at(archive, offset)
            found, after = _ordinary(member), archive.offset
            if member.isdir():
                offset = _onward(offset, after)
                continue
        if found is not None and not 0 <= found.size <= size_bytes - found.offset:
            raise DamagedArchive(f"it ends at byte {size_bytes}, before the end of one of its files")
        offset = _onward(offset, after)
        yield found


def _plain(block: bytes, offset: int) -> Member | None:
    """What a header of an ordinary file says, when it is as simple as can be: a short name and octal numbers."""
    if block[156] != _PLAIN_FILE or block[257:262] != b"ustar" or block[345]:
        return None
    try:
        size, checksum = _octal(block[124:136]), _octal(block[148:156])
    except ValueError:
        return None
    if checksum != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        return None
    name = block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape")
    return Member(name, offset + _BLOCK, size)


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not digits.isdigit():  # int() takes a sign and underscores too
        raise ValueError(field)
    return int(digits, 8)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _onward(offset: int, after: int) -> int:
    if after <= offset:
        raise DamagedArchive(f"the header at byte {offset} points backwards")
    return after


def _ordinary(member: tarfile.TarInfo) -> Member | None:
    """A file with its content in one piece; None for a link, a device, a sparse file."""
    if not member.isreg() or member.issparse():
        return None
    return Member(member.name, member.offset_data, member.size)


def _member_at(archive: tarfile.TarFile, offset: int) -> tarfile.TarInfo:
    """What the header there says; `archive.offset` is where the next one stands."""
    assert archive.fileobj is not None
    archive.fileobj.seek(offset)
    try:
        return tarfile.TarInfo.fromtarfile(archive)
    except OSError:
        raise
    except Exception as error:  # on damaged headers tarfile raises errors of its own, ValueError, struct.error, ...
        raise DamagedArchive(f"at byte {offset} stands no header of a tar ({error})") from error
