"""Results as text, and as rows of a CSV file that can be added to."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from videozoo.benchmark.measure import Figures, Result
from videozoo.errors import InvalidArgument, OutputError

_OF_THE_RESULT = (
    *("model", "clip", "threads", "device", "dtype", "rounds", "parameters", "flops"),
    *("bound_kernel", "bound_gflops", "bound_ms", "bound_cpu_ms"),
)
_CONDITIONS = (
    *("date", "cpu", "cpus", "arithmetic", "system", "python", "torch", "load_average", "load_average_after"),
)
COLUMNS = (*_OF_THE_RESULT, *(field.name for field in fields(Figures)), *_CONDITIONS)
_HEADER = ("", "latency ms", "quartiles", "clips/s", "ratio", "CPU ms", "ratio", "bound x", "CPU", "peak MiB", "error")


def text(result: Result) -> str:
    """A table, with the conditions below it."""
    clip = " x ".join(map(str, result.clip))
    lines = [
        f"{result.model}, clip {clip}, {result.threads} threads, {result.device}, {result.dtype}: "
        f"{result.parameters / 1e6:.1f} M parameters, {result.flops / 1e9:.1f} GFLOP"
    ]
    rows = [_HEADER, *(_cells(figures) for figures in result.contestants)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    for row in rows:
        first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([row[0].ljust(len(first)), *rest]))
    lines += [f"{name}: skipped: {reason}" for name, reason in result.skipped.items()]
    if result.bound_ms is not None:
        lines.append(
            f"bound: {_number(result.bound_ms)} ms, at the {_number(result.bound_gflops)} GFLOP/s of a "
            f"{result.bound_kernel} in the same rounds; a multiplication with its addition counts as two"
        )
    stated = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in result.conditions.items() if value is not None
    )
    return "\n".join([*lines, f"{result.rounds} rounds by turns; {stated}"])


def _cells(figures: Figures) -> tuple[str, ...]:
    return (
        figures.name,
        _number(figures.latency_ms),
        f"{_number(figures.latency_low_ms)}..{_number(figures.latency_high_ms)}",
        _number(figures.clips_per_second),
        _ratio(figures.latency_ratio),
        _number(figures.cpu_ms),
        _ratio(figures.cpu_ratio),
        _ratio(figures.over_bound),
        _ratio(figures.cpu_over_bound),
        _number(figures.device_peak_mb if figures.device_peak_mb is not None else figures.peak_mb),
        "-" if figures.error is None else f"{figures.error:.0e}",
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def records(result: Result) -> list[dict[str, object]]:
    """One flat record for each contestant, with ``COLUMNS`` as keys."""
    whole = asdict(result)
    shared = {name: whole[name] for name in _OF_THE_RESULT} | {"clip": "x".join(map(str, result.clip))}
    stated = {name: result.conditions.get(name) for name in _CONDITIONS}
    return [shared | asdict(figures) | stated for figures in result.contestants]


def append_csv(path: Path, result: Result) -> None:
    """Add the records to a file, which gets a header line if it is new.

    Raises:
        InvalidArgument: the file is there, and its columns are others.
        OutputError: it cannot be written.
    """
    check_csv(path)
    try:
        new = not path.exists() or path.stat().st_size == 0
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows({name: _cell(value) for name, value in record.items()} for record in records(result))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from None


def check_csv(path: Path) -> None:
    """Look before anything is measured.

    Raises:
        InvalidArgument: the file is there, and its columns are others.
        OutputError: it cannot be written, as far as one can see.
    """
    if not path.parent.is_dir() or path.is_dir():
        raise OutputError(f"{path} cannot be written: no such folder, or a folder itself")
    if path.exists() and path.stat().st_size:
        read_csv([path])


def read_csv(paths: Iterable[Path]) -> list[dict[str, str]]:
    """The records of files that `append_csv` wrote.

    Raises:
        InvalidArgument: a file cannot be read, or has other columns.
    """
    found: list[dict[str, str]] = []
    for path in paths:
        try:
            with path.open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                columns: Sequence[str] = reader.fieldnames or ()
                rows = list(reader)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InvalidArgument(f"{path} cannot be read: {error}") from None
        if tuple(columns) != COLUMNS:
            raise InvalidArgument(f"{path} has other columns than `videozoo benchmark --csv` writes")
        found += rows
    return found


def _cell(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
