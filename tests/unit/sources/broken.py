"""Faults that every reader must name: the file, and where a record is at fault, its number."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

_WRONG_ENCODING = "é".encode("latin-1")


def check_faults(read: Callable[[Path], Iterable], path: Path, good: bytes) -> None:
    """An empty, a binary and a wrongly encoded file in place of `path` are refused with one message that names it.

    `good` is a sound file of the format; its last line must hold a letter that can be replaced.
    """
    path.write_bytes(good)
    assert list(read(path)), "the sound file must be readable"
    last = good.rstrip().rindex(b"a")
    faults = {
        "is empty": b"",
        "binary|UTF-8|JSON": bytes(range(256)) * 40,
        "UTF-8|JSON": good[:last] + _WRONG_ENCODING + good[last + 1 :],
    }
    for words, content in faults.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words) as error:
            list(read(path))
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
