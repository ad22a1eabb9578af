"""``videozoo demo``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

NAME = "demo"
HELP = "Write eight short videos, convert the embedded checkpoint, verify it and recognise the videos; offline."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print a table of truth and the three best classes; exit status 0 also where the network errs."""
    from videozoo.demo import convert_embedded, recognise, write_videos
    from videozoo.inference import reuse_heap

    reuse_heap()
    with TemporaryDirectory(prefix="videozoo-demo-") as name:
        folder = Path(name)
        report = convert_embedded(folder)
        results = list(recognise(report.output, write_videos(folder)))
    rows = [(result.video.name, result.truth, result.prediction.topk(3)) for result in results]
    correct = sum(top[0][0] == truth for _, truth, top in rows)
    if options.json:
        summary = {"weights": report.weights, "source_sha256": report.source_sha256, "correct": correct}
        videos = [{"video": video, "truth": truth, "topk": top} for video, truth, top in rows]
        print(json.dumps(summary | {"videos": videos}, indent=2))
        return 0
    print(
        f"converted {report.source.name} (MMAction2 layout, sha256 {report.source_sha256[:8]}...) of {report.weights}"
    )
    print(f"verified  {report.num_tensors} tensors, equal to those of pretrained=True\n")
    print(f"{'video':16}{'truth':12}three best")
    for video, truth, top in rows:
        best = "   ".join(f"{label} {100 * score:.1f} %" for label, score in top)
        print(f"{video:16}{truth:12}{best}")
    print(f"\n{correct} of {len(rows)} right")
    return 0
