"""One JSON object a line. Numbers keep the spelling of the file: 1e5 stays 1e5, 0.10 stays 0.10."""

import codecs
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from reconcile.inputs.chunk import BadRecord, Chunk

CHUNK_LINES = 50_000


def read(stream: BinaryIO, columns: Sequence[Sequence[str]]) -> Iterator[Chunk]:
    """The records of a stream; an ordinal is the line's number less one. A missing or null field is empty text.

    For each column there are the names that it may have. A name is that of a field, or else a path to one: `user.id`,
    or `items.0.sku` with the position in a list, from 0.
    """
    decode = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str).decode
    paths = [[(name, name.split(".") if "." in name else []) for name in names] for names in columns]
    numbered = enumerate(stream)
    while lines := list(islice(numbered, CHUNK_LINES)):
        ordinals: list[int] = []
        values: list[list[str]] = []
        bad: list[BadRecord] = []
        for ordinal, line in lines:
            text = line if ordinal else line.removeprefix(codecs.BOM_UTF8)
            if not text.strip():
                continue
            try:
                record = decode(text.decode())
                row = [_text(_field(record, path)) for path in paths]
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


def _field(record: Any, names: Sequence[tuple[str, Sequence[str]]]) -> Any:
    """The first of these fields that is there and not null. AttributeError if the record is no object."""
    for name, path in names:
        found = record.get(name)
        if found is None and path:
            found = _follow(record, path)
        if found is not None:
            return found
    return None


def _follow(value: Any, path: Sequence[str]) -> Any:
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _text(value: Any) -> str:
    """A field as text; a list of scalars is joined by commas, as for trait IDs. TypeError for anything deeper."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and not any(isinstance(member, list | dict) for member in value):
        return ",".join(_text(member) for member in value if member is not None)
    raise TypeError("a nested value has no text")
