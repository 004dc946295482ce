"""Text of unknown encoding as characters, and a caption as one line of them."""

from __future__ import annotations

NOT_UTF8 = "not UTF-8, read as Latin-1 (Windows-1252)"


def decode_text(data: bytes) -> tuple[str, tuple[str, ...]]:
    """Text of unknown encoding, and a note if it was guessed: UTF-8, UTF-16 (by mark or zero bytes), else Latin-1."""
    if data.isascii() and 0 not in data:
        return data.decode("ascii"), ()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace"), ()
    if b"\0" in data:
        order = "utf-16-be" if data.startswith(b"\0") else "utf-16-le"
        return data.decode(order, "replace"), ()
    try:
        return data.decode("utf-8-sig"), ()
    except UnicodeDecodeError:
        pass
    return _western(data), (NOT_UTF8,)


def is_unicode(text: str) -> bool:
    """Whether a text has no halves of characters, which stand for bytes that aren't UTF-8, or are broken escapes."""
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        return False
    return True


def latin(text: str) -> str:
    """Text that was read as UTF-8, in which surrogates stand for bytes that aren't, read as Latin-1 (Windows-1252)."""
    try:
        return _western(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return text


def one_line(text: str) -> str:
    """A caption as it is encoded: blanks and line ends made one blank each, halves of characters replaced."""
    if not is_unicode(text):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " ".join(text.split())


def _western(data: bytes) -> str:
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")
