"""Message framing for the pipes between a process and its worker processes.

A frame is two big-endian lengths, a JSON object, and raw bytes; nothing in it is ever executed.
"""

from __future__ import annotations

import json
import struct
from typing import IO, Any

__all__ = ["read_frame", "write_frame"]

_LENGTHS = struct.Struct(">IQ")


def write_frame(file: IO[bytes], header: dict[str, Any], body: bytes = b"") -> None:
    """Write one frame and flush it."""
    encoded = json.dumps(header).encode()
    file.write(_LENGTHS.pack(len(encoded), len(body)))
    file.write(encoded)
    file.write(body)
    file.flush()


def read_frame(file: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Read one frame.

    Raises:
        EOFError: the other side has closed the pipe.
    """
    header_length, body_length = _LENGTHS.unpack(_exactly(file, _LENGTHS.size))
    header = json.loads(_exactly(file, header_length))
    return header, _exactly(file, body_length)


def _exactly(file: IO[bytes], length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data
