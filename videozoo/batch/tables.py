"""Rows to a file: Parquet, JSON lines or safetensors, one row or a few hundred in memory.

Safetensors has texts in its header: paths, errors and labels of all rows are in memory while it is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from videozoo.batch.rows import Row
from videozoo.errors import InvalidArgument, OutputError, printable

Rows = Callable[[], Iterable[Row]]
"""The rows in order, anew at every call."""
Write = Callable[[Path, Rows, dict[str, Any]], None]

_HEADER_BYTES = 100_000_000
"""Longer ones no reader of safetensors opens."""
_GROUP_ROWS = 512
"""Rows of a group of a Parquet file: 4 MB of vectors of 2048."""


def writer_for(out: Path) -> Write:
    """What writes a file of this name: a path, the rows, and what describes the run, as JSON.

    Raises:
        InvalidArgument: a suffix of no known format, or pyarrow is not installed.
    """
    suffix = out.suffix.lower()
    if suffix not in _WRITERS:
        raise InvalidArgument(f"{out}: tables are {', '.join(_WRITERS)}, or a folder (a name without suffix)")
    if suffix == ".parquet":
        refuse_without_pyarrow()
    return _WRITERS[suffix]


def refuse_without_pyarrow() -> None:
    """Raise InvalidArgument where pyarrow, which writes Parquet, is not installed."""
    if find_spec("pyarrow") is None:
        raise InvalidArgument('Parquet needs pyarrow: pip install "videozoo[parquet]", or write .jsonl or .safetensors')


def recorded(path: str) -> str:
    """The path as tables have it: names that are no UTF-8 are escaped."""
    return path.encode("utf-8", "backslashreplace").decode()


def as_record(row: Row) -> dict[str, Any]:
    """The row's columns, in order: those of every format, and of both engines."""
    record: dict[str, Any] = {
        "path": recorded(row.path),
        "window": row.window,
        "start_seconds": row.start_seconds,
        "end_seconds": row.end_seconds,
    }
    return record | {
        "vector": row.vector,
        "labels": row.labels,
        "probabilities": row.probabilities,
        "error": None if row.error is None else printable(row.error),
    }


def columns(kind: str) -> tuple[str, ...]:
    """Names of the columns of a table of ``features`` or of ``labels``."""
    answer = ("vector",) if kind == "features" else ("labels", "probabilities")
    return ("path", "window", "start_seconds", "end_seconds", *answer, "error")


def parquet_schema(kind: str, about: dict[str, Any]) -> Any:
    """The schema, in pyarrow, of a table of ``features`` or ``labels``; ``about`` is its metadata ``videozoo``."""
    import pyarrow as pa

    types = {
        "path": pa.string(), "window": pa.int64(), "start_seconds": pa.float64(), "end_seconds": pa.float64(),
        "vector": pa.list_(pa.float32()), "labels": pa.list_(pa.string()), "probabilities": pa.list_(pa.float32()),
        "error": pa.string(),
    }  # fmt: skip
    fields = [pa.field(name, types[name], nullable=name not in ("path", "window")) for name in columns(kind)]
    return pa.schema(fields, metadata={"videozoo": json.dumps(about, sort_keys=True)})


def _write_parquet(path: Path, rows: Rows, about: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = parquet_schema(about["kind"], about)
    found = iter(rows())
    with pq.ParquetWriter(path, schema) as writer:
        while group := [as_record(row) for row in islice(found, _GROUP_ROWS)]:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _write_jsonl(path: Path, rows: Rows, about: dict[str, Any]) -> None:
    names = columns(about["kind"])
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        for row in rows():
            record = as_record(row)
            for name in ("vector", "probabilities"):
                if record[name] is not None:
                    record[name] = [_shortest(value) for value in record[name]]
            stream.write(json.dumps({name: record[name] for name in names}, ensure_ascii=False) + "\n")


def _shortest(value: float) -> float:
    """A float32 as the shortest number that is read back as the same float32."""
    return float(str(np.float32(value)))


def _write_safetensors(path: Path, rows: Rows, about: dict[str, Any]) -> None:
    """Tensors with one row a row of the table, those of errors NaN; paths, errors and labels in the metadata.

    The format wants all shapes first and then each tensor whole: the rows are gone through once for each.
    """
    answer = "vectors" if about["kind"] == "features" else "probabilities"
    texts = [(row.path, row.error, row.labels) for row in rows()]
    width = max((len(_answer(row)) for row in rows()), default=0)
    metadata = {
        "videozoo": json.dumps(about, sort_keys=True),
        "paths": json.dumps([path for path, _, _ in texts]),
        "errors": json.dumps({number: error for number, (_, error, _) in enumerate(texts) if error is not None}),
    }
    if about["kind"] == "labels":
        metadata["labels"] = json.dumps([labels for _, _, labels in texts])
    parts: dict[str, tuple[str, tuple[int, ...], Callable[[Row], NDArray[Any]]]] = {
        "windows": ("I64", (), lambda row: np.array(row.window, "<i8")),
        "start_seconds": ("F64", (), lambda row: _seconds(row.start_seconds)),
        "end_seconds": ("F64", (), lambda row: _seconds(row.end_seconds)),
        answer: ("F32", (width,), lambda row: _numbers(row, width)),
    }
    with open(path, "wb") as stream:
        _write_header(stream, {name: part[:2] for name, part in parts.items()}, len(texts), metadata)
        for _, _, value_of in parts.values():
            for row in rows():
                stream.write(value_of(row).tobytes())


def _write_header(
    stream: BinaryIO, parts: dict[str, tuple[str, tuple[int, ...]]], num_rows: int, metadata: dict[str, str]
) -> None:
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in parts.items():
        begin, end = end, end + num_rows * math.prod(shape) * int(dtype[1:]) // 8
        header[name] = {"dtype": dtype, "shape": [num_rows, *shape], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _HEADER_BYTES:
        raise OutputError(
            f"{len(text)} bytes of paths and labels are more than a safetensors file can have ({_HEADER_BYTES}): name "
            "OUT .parquet or .jsonl; rename OUT.journal likewise, and nothing is computed again"
        )
    stream.write(len(text).to_bytes(8, "little") + text)


def _answer(row: Row) -> NDArray[np.float32]:
    return np.asarray(row.probabilities or () if row.vector is None else row.vector, "<f4")


def _seconds(value: float | None) -> NDArray[np.float64]:
    return np.array(math.nan if value is None else value, "<f8")


def _numbers(row: Row, width: int) -> NDArray[np.float32]:
    numbers = _answer(row)
    return numbers if len(numbers) else np.full(width, math.nan, "<f4")


_WRITERS: dict[str, Write] = {
    ".parquet": _write_parquet,
    ".jsonl": _write_jsonl,
    ".safetensors": _write_safetensors,
}
