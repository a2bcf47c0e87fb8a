"""How large a request of /invocations is, looked at before MLflow makes a table of it: a small body can unpack to much.

Only sizes are looked at. What cannot be read here is left to MLflow's own reader, which says what is wrong with it.
"""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

from genai_server.answering.queue_slots import QueueSlots
from genai_server.errors import TooLarge

MAX_COLUMNS = 1000
MAX_UNPACKED_BYTES = 64_000_000  # of a Parquet body
_ROWS = ("dataframe_records", "instances", "inputs")


def require_size(data: bytes, content_type: str, slots: QueueSlots) -> None:
    """Raises TooLarge for more rows than a request may have, or for more than MAX_COLUMNS columns."""
    rows, columns = _size(data, content_type)
    slots.require_size(rows)
    if columns > MAX_COLUMNS:
        raise TooLarge(f"The request has {columns} columns; it may have {MAX_COLUMNS}.", "Send the column question.")


def _size(data: bytes, content_type: str) -> tuple[int, int]:
    """(rows, columns); 0 where they are not known before the whole is read."""
    try:
        if content_type.startswith("application/json"):
            return _json_size(json.loads(data))
        if content_type.startswith("text/csv"):
            return 0, data.partition(b"\n")[0].count(b",") + 1
        return _parquet_size(data)
    except (ValueError, RecursionError, OSError, ImportError):
        return 0, 0


def _json_size(body: Any) -> tuple[int, int]:
    if not isinstance(body, dict):
        return 0, 0
    split = body.get("dataframe_split")
    if isinstance(split, dict):
        return _length(split.get("data")), max(_length(split.get("columns")), _widest(split.get("data")))
    for form in _ROWS:
        if isinstance(rows := body.get(form), list):
            return len(rows), _widest(rows)
        if isinstance(rows, dict):
            return max(map(_length, rows.values()), default=0), len(rows)
    return 0, 0


def _widest(rows: Any) -> int:
    """Of a list of rows; more of them than a request may have are refused by their number."""
    return max((_length(row) for row in rows[:1000]), default=0) if isinstance(rows, list) else 0


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 0


def _parquet_size(data: bytes) -> tuple[int, int]:
    """From the file's own description, which is not compressed."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        described = pyarrow.parquet.ParquetFile(BytesIO(data)).metadata
    except pa.ArrowException:
        return 0, 0
    groups = (described.row_group(i) for i in range(described.num_row_groups))
    if sum(group.total_byte_size for group in groups) > MAX_UNPACKED_BYTES:
        raise TooLarge(f"The body unpacks to more than {MAX_UNPACKED_BYTES} bytes.", "Send several requests.")
    return described.num_rows, described.num_columns
