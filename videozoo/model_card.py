"""The model card, ``README.md`` of a model folder, written from its configuration and the manifest's row.

Figures, licence and provenance stand in it only where a row backs them: weights whose tensors are the row's own have
its figures; weights that were trained on from there name the row and claim nothing.
"""

from __future__ import annotations

import json

from videozoo import manifest, registry
from videozoo.manifest import Entry, File, Protocol, Views
from videozoo.model_config import CONFIG, WEIGHTS, ModelConfig
from videozoo.tables import views_in_words

CARD = "README.md"
MAX_LABELS_SHOWN = 20
UNKNOWN_LICENSE = "unknown"
"""The Hub's word where no publisher states a licence of the weights."""


def model_card(config: ModelConfig, *, name: str, row: Entry | None, trained_from: Entry | None = None) -> str:
    """Markdown with the Hub's front matter; the same arguments give the same text.

    Args:
        config: what the folder holds.
        name: how the model is asked for, such as ``hf-hub:org/name``.
        row: the manifest's row whose tensors these are; None where they are no row's.
        trained_from: else the row that training started from, if it is known; what a file says of itself is no
            knowledge.
    """
    spec = registry.architecture(config.architecture)
    citation = manifest.load().citations[spec.citation]
    title = row.name if row is not None else name.removeprefix("hf-hub:")
    parts = [
        _front_matter(config),
        f"# {title}\n\n{spec.title}, for video classification with {config.num_classes} classes.",
        _use(config, name),
        _figures(row),
        _preprocessing(config.protocol),
        _classes(config),
        _provenance(row, trained_from),
        _license(config, row),
        f"## Citation\n\n```bibtex\n{citation.strip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(config: ModelConfig) -> str:
    # JSON's quoted strings are YAML's, whatever is in them.
    quoted = json.dumps
    license_id = (config.license or UNKNOWN_LICENSE).lower()
    lines = [
        "---",
        "library_name: videozoo",
        "pipeline_tag: video-classification",
        f"license: {quoted(license_id)}",
        *(["datasets:", f"- {quoted(config.dataset)}"] if config.dataset else []),
        "tags:",
        "- video-classification",
        "- action-recognition",
        "- videozoo",
        f"- {quoted(config.architecture)}",
        "---",
    ]
    return "\n".join(lines)


def _use(config: ModelConfig, name: str) -> str:
    view, chans = config.protocol.center, config.model_args.get("in_chans", 3)
    clip = f"1, {chans}, {view.num_frames}, {view.crop_size}, {view.crop_size}"
    return f"""## Use

```python
import torch
import videozoo

model = videozoo.create_model({name!r}).eval()
logits = model(torch.zeros({clip}))  # (N, C, T, H, W) -> (N, {config.num_classes})

recognizer = videozoo.load_recognizer({name!r})  # with the preprocessing and the labels
for label, score in recognizer("VIDEO.mp4").topk(5):
    print(f"{{score:.3f}}  {{label}}")
```

`{WEIGHTS}` has sha256 `{config.sha256}`. `@REVISION` behind the name of a Hugging Face repository pins a commit."""


def _figures(row: Entry | None) -> str:
    if row is None or row.figures.top1_percent is None:
        return "## Figures\n\nNone are stated."
    figures = row.figures
    values = [("top-1", figures.top1_percent), ("top-5", figures.top5_percent)]
    stated = "\n".join(f"| {what} | {value:g} % |" for what, value in values if value is not None)
    title = manifest.load().datasets[row.dataset].title
    return (
        f"## Figures\n\nAs {row.source.zoo} states them, on {title}.\n\n| figure | value |\n| --- | --- |\n{stated}\n\n"
        f"Protocol: {figures.protocol or 'not stated'}."
    )


def _preprocessing(protocol: Protocol) -> str:
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (protocol.input.mean, protocol.input.std))
    return f"""## Preprocessing

`videozoo.create_transform(model)` does all of it; `{CONFIG}` holds it under `pretrained_cfg.protocol`.

- full test protocol: {_views(protocol.full)}
- one centred view: {_views(protocol.center)}
- channels in order R, G, B; pixel values 0..255; mean {mean}; standard deviation {std}"""


def _views(views: Views) -> str:
    frames = f"{views.num_frames} frames, {views.frame_stride} apart; " if views.sampling == "clips" else ""
    answers = {"prob": "mean of probabilities", "score": "mean of logits", None: "one answer for the whole video"}
    return f"{frames}{views_in_words(views)}; short side {views.short_side} pixels; {answers[views.average_clips]}"


def _classes(config: ModelConfig) -> str:
    if config.label_names is None:
        return f"## Classes\n\n{config.num_classes}, without names."
    shown = ", ".join(f"`{name}`" for name in config.label_names[:MAX_LABELS_SHOWN])
    more = " ..." if len(config.label_names) > MAX_LABELS_SHOWN else ""
    return f"## Classes\n\n{config.num_classes}, named in `{CONFIG}`: {shown}{more}"


def _provenance(row: Entry | None, trained_from: Entry | None) -> str:
    known = row or trained_from
    if known is None:
        return "## Provenance\n\nTrained by the repository's owner; videozoo knows no published weights behind it."
    lead = (
        f"The tensors are those of `{known.name}`, bit for bit, under videozoo's names."
        if row is not None
        else f"Trained on from `{known.name}` by the repository's owner. What follows is said of that starting point."
    )
    source = known.source
    facts = [
        ("zoo", source.zoo),
        ("page", source.page),
        ("config", source.config),
        ("pretraining", source.pretrained),
        ("ported from", source.ported_from),
        ("original file", None if known.file is None else _file(known.file)),
    ]
    lines = [f"- {what}: {value}" for what, value in facts if value] + [f"- {note}" for note in known.notes]
    return "\n".join([f"## Provenance\n\n{lead}\n", *lines])


def _file(file: File) -> str:
    if file.sha256 is not None:
        return f"`{file.name}`, sha256 `{file.sha256}`"
    return f"`{file.name}`" + (f", sha256 with the prefix `{file.sha256_prefix}`" if file.sha256_prefix else "")


def _license(config: ModelConfig, row: Entry | None) -> str:
    weights = config.license or "not stated"
    if row is None:
        return f"## Licence\n\nWeights: {weights}."
    note = f"\n\n{row.license.note}" if row.license.note else ""
    return f"## Licence\n\nCode of the original: {row.license.code}. Weights: {weights}.{note}"
