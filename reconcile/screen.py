"""A look at whole Arrow buffers that tells most chunks of records free of faults, at memory speed.

It only ever errs to the safe side: what it passes breaks no rule of `ids.customer_id_fault` or
`engine.sql.value_fault` (tests hold them together); what it does not pass is looked at record by record.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from idsync.ids import MAX_CUSTOMER_ID_BYTES, PLAIN, IdRules
from idsync.settings import MAX_TRAIT_DIGITS
from reconcile.lines import MAX_LINE_BYTES

_FIRST_PRINTABLE = 0x20
_SUSPECT_IN_VALUE = (b'"', b"\x7f")


def is_clean(
    customer_ids: pa.StringArray,
    rules: IdRules,
    signals: Sequence[pa.StringArray],
    traits: Sequence[pa.StringArray] = (),
) -> bool:
    """Whether no ID, signal or list of traits of these can break a rule. Columns without nulls."""
    if doubtful_ids(customer_ids, rules).any():
        return False
    for column in traits:
        lengths, data = text_buffer(column)
        digits = np.frombuffer(data, np.uint8) if len(data) else np.full(1, ord("0"), np.uint8)
        if digits.min() < ord("0") or digits.max() > ord("9") or (len(lengths) and lengths.max() > MAX_TRAIT_DIGITS):
            return False
    for column in signals:
        lengths, data = text_buffer(column)
        if len(lengths) and lengths.max() > MAX_LINE_BYTES // 2:
            return False
        if _holds(data, _SUSPECT_IN_VALUE):
            return False
    return True


def doubtful_ids(customer_ids: pa.StringArray, rules: IdRules) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Which of these IDs, without nulls, may break a rule."""
    if rules.ordinary is None:
        return np.ones(len(customer_ids), np.bool_)
    lengths, text = text_buffer(customer_ids)
    doubtful: np.ndarray[tuple[int], np.dtype[np.bool_]] = lengths > MAX_CUSTOMER_ID_BYTES
    patterns = [] if _are_plain(lengths, text) else [rules.ordinary]
    for pattern in patterns + ([rules.shape.pattern] if rules.shape else []):
        fits = pc.match_substring_regex(customer_ids, f"^(?:{pattern.pattern})$")
        doubtful |= ~fits.to_numpy(zero_copy_only=False)
    return doubtful


def _are_plain(lengths: "np.ndarray[tuple[int], np.dtype[np.int64]]", text: memoryview) -> bool:
    """Whether all are of one kind that needs no pattern, which takes six times as long."""
    if not len(lengths) or not lengths.min():
        return False
    content = bytes(text)
    starts = np.frombuffer(text, np.uint8)[np.cumsum(lengths) - lengths].tobytes()
    return any(
        not starts.translate(None, kind.starts)
        and not content.translate(None, kind.characters)
        and lengths.max() <= kind.longest
        for kind in PLAIN
    )


def text_buffer(column: pa.StringArray) -> tuple["np.ndarray[tuple[int], np.dtype[np.int64]]", memoryview]:
    """The length of each text in bytes (0 for null), and all texts back to back, without a copy."""
    _, offset_buffer, data = column.buffers()
    if offset_buffer is None or not len(column):
        return np.empty(0, np.int64), memoryview(b"")
    offsets = np.frombuffer(offset_buffer, np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    if data is None:
        return np.diff(offsets), memoryview(b"")
    return np.diff(offsets), memoryview(data)[offsets[0] : offsets[-1]]


def _holds(data: memoryview, suspects: Sequence[bytes]) -> bool:
    if not len(data):
        return False
    if np.frombuffer(data, np.uint8).min() < _FIRST_PRINTABLE:
        return True
    content = bytes(data)
    return any(suspect in content for suspect in suspects)
