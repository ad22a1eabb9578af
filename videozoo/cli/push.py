"""``videozoo push``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from videozoo.cli.data import read_labels

if TYPE_CHECKING:
    from videozoo.layers.video_model import VideoModel

NAME = "push"
HELP = "Upload weights to the Hugging Face Hub, in timm's layout and with a model card."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "model", metavar="NAME_OR_PATH", help="architecture.tag, a weight file, or a folder that save_to_dir wrote"
    )
    parser.add_argument("repository", metavar="ORG/NAME", help="the repository; it is made if there is none")
    parser.add_argument("--private", action="store_true", help="hide a new repository from others")
    parser.add_argument("--dry-run", action="store_true", help="connect to nothing; print what would be uploaded")
    parser.add_argument("--revision", metavar="BRANCH", help="the branch; default: the main one")
    parser.add_argument("--labels", type=Path, metavar="TXT", help="class names of a file of your own, one a line")
    parser.add_argument(
        "--license", metavar="ID", help="licence of the weights, such as apache-2.0; default: the row's"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Upload one network and print what went where."""
    from videozoo.hub import push_to_hub

    model = _model(options.model)
    names = read_labels(options.labels)
    pushed = push_to_hub(
        model,
        options.repository,
        labels=names,
        license=options.license,
        private=options.private,
        revision=options.revision,
        dry_run=options.dry_run,
    )
    if options.json:
        print(json.dumps(asdict(pushed), indent=2))
        return 0
    for name, size_bytes in pushed.files.items():
        print(f"{size_bytes:>12,} bytes  {name}")
    print(f"sha256 of the weights  {pushed.weights_sha256}")
    if pushed.commit is None:
        print(f"\n{pushed.card}")
        print(f"dry run: nothing was uploaded to {pushed.url}")
    else:
        print(f"uploaded to {pushed.url}; load it as hf-hub:{pushed.repository}@{pushed.commit}")
    return 0


def _model(name: str) -> VideoModel:
    from videozoo.conversion import open_weights
    from videozoo.convert import identify
    from videozoo.models import create_model

    path = Path(name)
    if path.is_dir():
        return create_model(f"local-dir:{path}")
    if path.is_file():
        source = open_weights(path)
        return create_model(identify(source), num_classes=source.num_classes, checkpoint_path=path)
    # A repository is copied by its own name; an architecture alone means its default weights.
    return create_model(name, True)
