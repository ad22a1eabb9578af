"""The README's table of weights, written from the manifest.

``python -m videozoo.tables README.md`` rewrites what stands between the two marker lines.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from videozoo.errors import InvalidArgument, VideoZooError
from videozoo.manifest import Entry, Manifest, Views, load

BEGIN = "<!-- weights-table:begin -->"
END = "<!-- weights-table:end -->"

_HEADER = (
    "weights",
    "top-1 %",
    "top-5 %",
    "frames x stride",
    "views",
    "classes",
    "pretraining",
    "sha256 starts with",
    "upstream config",
)
_FOOTNOTE = (
    "Frames and views are those of the row's own test protocol. Files ported from VMZ carry VMZ's figures; "
    "`videozoo info NAME` says which protocol gave a figure. Of several files of one training, the plain tag means the "
    "one with a published digest, else VMZ's Caffe2 file; `_c2` is then VMZ's Caffe2 file, `_pt` its PyTorch file. "
    "`<data>_raw` was only pretrained on that data, and only the full tag means it; `_trunk` has no classifier; "
    "`_clip8` sees 8 frames instead of 32."
)
_CROPS = {"center": 1, "three": 3, "ten": 10}


def weights_table(manifest: Manifest | None = None) -> str:
    """Markdown table of all rows of ``manifest`` (default: the zoo's own) but the ``test_*`` ones, in its order.

    A sentence below the table says what its columns mean.
    """
    manifest = load() if manifest is None else manifest
    rows = [_row(entry) for entry in manifest.entries if not entry.architecture.startswith("test_")]
    table = [_line(cells) for cells in (_HEADER, ["---"] * len(_HEADER), *rows)]
    return "\n".join([*table, "", _FOOTNOTE])


def with_weights_table(text: str) -> str:
    """``text`` with the part between the two marker lines replaced by :func:`weights_table`.

    Raises:
        InvalidArgument: ``text`` does not hold each marker once, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or any(marker in before + after for marker in (BEGIN, END)):
        raise InvalidArgument(f"the text must hold {BEGIN} and, after it, {END}, each once; add the two lines")
    return f"{before}{BEGIN}\n{weights_table()}\n{END}{after}"


def views_in_words(views: Views) -> str:
    """What one video is cut into, as ``10 clips x 3 crops of 256``.

    >>> views_in_words(load().architectures["tsn_r50"].protocol.full)
    '25 segments x 10 crops of 224'
    """
    if views.sampling == "clips":
        parts = f"{views.num_clips} clip{'s' if views.num_clips != 1 else ''}"
    else:
        parts = f"{views.num_frames} segment{'s' if views.num_frames != 1 else ''}"
    twice = "2 x " if views.twice_sample else ""
    crops = _CROPS[views.crop]
    return f"{twice}{parts} x {crops} crop{'s' if crops != 1 else ''} of {views.crop_size}"


def main(arguments: Sequence[str]) -> int:
    """Rewrites the table in the Markdown file that ``arguments`` name; returns the exit status."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m videozoo.tables README.md\n")
        return InvalidArgument.exit_status
    path = Path(arguments[0])
    try:
        path.write_text(with_weights_table(path.read_text(encoding="utf-8")), encoding="utf-8")
    except (VideoZooError, OSError) as error:
        sys.stderr.write(f"{path}: {error}\n")
        return error.exit_status if isinstance(error, VideoZooError) else 1
    return 0


def _row(entry: Entry) -> list[str]:
    views = entry.protocol.full
    file = entry.file
    return [
        f"`{entry.name}`",
        _percent(entry.figures.top1_percent),
        _percent(entry.figures.top5_percent),
        f"{views.num_frames} x {views.frame_stride}" if views.sampling == "clips" else str(views.num_frames),
        views_in_words(views),
        str(entry.num_classes),
        entry.source.pretrained or "none",
        "no file" if file is None else f"`{file.sha256_prefix}`" if file.sha256_prefix else "not known",
        f"`{entry.source.config}`" if entry.source.config else "",
    ]


def _percent(value: float | None) -> str:
    return "" if value is None else str(value)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
