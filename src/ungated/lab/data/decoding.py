"""Bytes of a user's file as text: strictly, with the place of what is wrong."""

from __future__ import annotations

import codecs

from ungated.lab.errors import DataError


def decoded(path: str, content: bytes, encoding: str, otherwise: str) -> tuple[str, list[str]]:
    """The text, and remarks on what was changed: a byte order mark dropped, line ends made `\\n`.

    Raises DataError with the line and what else to do (`otherwise`) where the content is not text in `encoding`.
    """
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        advice = "it looks like encoding utf-16" if marked else otherwise
        raise DataError(
            f"{path}, line {line}: byte {error.start} (0x{content[error.start]:02x}) is not {encoding}; {advice}"
        ) from None
    except (UnicodeError, LookupError, ValueError) as error:  # codecs that are not of text, and the odd ones
        raise DataError(f"{path} cannot be read as {encoding}: {error}; {otherwise}") from None
    remarks = []
    if text.startswith("\ufeff"):
        text = text[1:]
        remarks.append("the byte order mark at the start was dropped")
    place = text.find("\0")
    if place >= 0:
        line = text.count("\n", 0, place) + 1
        raise DataError(f"{path}, line {line}: a NUL, as binary files have, not text; {otherwise}")
    if changed := text.count("\r"):
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        remarks.append(f"{changed:,} line ends with a carriage return became plain ones")
    return text, remarks
