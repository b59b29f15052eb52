"""One JSON object a line. Numbers keep the spelling of the file: 1e5 stays 1e5, 0.10 stays 0.10."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from reconcile.inputs.chunk import BadRecord, Chunk

CHUNK_LINES = 50_000


def read(stream: BinaryIO, columns: Sequence[str]) -> Iterator[Chunk]:
    """The records of a stream; an ordinal is the line's number less one. A missing or null field is empty text."""
    decode = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str).decode
    numbered = enumerate(stream)
    while lines := list(islice(numbered, CHUNK_LINES)):
        ordinals: list[int] = []
        values: list[list[str]] = []
        bad: list[BadRecord] = []
        for ordinal, line in lines:
            if not line.strip():
                continue
            try:
                record = decode(line.decode())
                row = [_text(record.get(column)) for column in columns]
                "".join(row).encode()
            except UnicodeError:  # also an escape such as "\\ud800", half of a pair
                bad.append(BadRecord(ordinal, "not-utf-8", ""))
            except (ValueError, AttributeError, RecursionError):
                bad.append(BadRecord(ordinal, "not-a-json-object", ""))
            except TypeError:
                bad.append(BadRecord(ordinal, "nested-value", ""))
            else:
                ordinals.append(ordinal)
                values.append(row)
        arrays = [pa.array([row[index] for row in values], pa.string()) for index in range(len(columns))]
        yield Chunk(np.array(ordinals, dtype=np.int64), arrays, bad)


def _text(value: Any) -> str:
    """A field as text; a list of scalars is joined by commas, as for trait IDs. TypeError for anything deeper."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and not any(isinstance(member, list | dict) for member in value):
        return ",".join(_text(member) for member in value)
    raise TypeError("a nested value has no text")
