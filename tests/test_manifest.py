"""The manifest: its schema, what lies beyond a schema, and every figure of the pages that it was made from."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from videozoo import manifest
from videozoo.errors import InvalidArgument
from videozoo.labels import labels
from videozoo.manifest import Entry, Views
from videozoo.tables import BEGIN, END, main, views_in_words, weights_table, with_weights_table

SCHEMA = json.loads(Path(manifest.__file__).with_name("weights_manifest.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
DATA = json.loads(manifest.path().read_text(encoding="utf-8"))
ENTRIES = {entry.name: entry for entry in manifest.load().entries}

CSN = "https://download.openmmlab.com/mmaction/recognition/csn/"
TPN = "https://download.openmmlab.com/mmaction/recognition/tpn/"

# The two MMAction2 pages, cell by cell: weights, config as printed, resolution, GPUs, backbone, pretrained, top-1,
# top-5, memory, kind of file, file below the page's folder, log file below the page's folder.
MMACTION2_ROWS = """
ircsn_r50.k400                  | ircsn_bnfrozen_r50_32x2x1_180e_kinetics400_rgb | short side 320 | x | ResNet50 | None | 73.6 | 91.3 | x | ckpt | ircsn_bnfrozen_r50_32x2x1_180e_kinetics400_rgb/ircsn_bnfrozen_r50_32x2x1_180e_kinetics400_rgb_20210618-4e29e2e8.pth | ircsn_bnfrozen_r50_32x2x1_180e_kinetics400_rgb/20210618_182414.log
ircsn_r50.ig65m_k400            | ircsn_ig65m_pretrained_bnfrozen_r50_32x2x1_58e_kinetics400_rgb | short side 320 | x | ResNet50 | IG65M | 79.0 | 94.2 | x | infer_ckpt | vmz/vmz_ircsn_ig65m_pretrained_r50_32x2x1_58e_kinetics400_rgb_20210617-86d33018.pth | x
ircsn_r152.k400                 | ircsn_bnfrozen_r152_32x2x1_180e_kinetics400_rgb | short side 320 | x | ResNet152 | None | 76.5 | 92.1 | x | infer_ckpt | vmz/vmz_ircsn_from_scratch_r152_32x2x1_180e_kinetics400_rgb_20210617-5c933ae1.pth | x
ircsn_r152.sports1m_k400        | ircsn_sports1m_pretrained_bnfrozen_r152_32x2x1_58e_kinetics400_rgb | short side 320 | x | ResNet152 | Sports1M | 78.2 | 93.0 | x | infer_ckpt | vmz/vmz_ircsn_sports1m_pretrained_r152_32x2x1_58e_kinetics400_rgb_20210617-b9b10241.pth | x
ircsn_r152.ig65m_k400           | ircsn_ig65m_pretrained_bnfrozen_r152_32x2x1_58e_kinetics400_rgb.py | short side 320 | 8x4 | ResNet152 | IG65M | 82.76 | 95.68 | 8516 | ckpt | ircsn_ig65m_pretrained_bnfrozen_r152_32x2x1_58e_kinetics400_rgb/ircsn_ig65m_pretrained_bnfrozen_r152_32x2x1_58e_kinetics400_rgb_20200812-9037a758.pth | ircsn_ig65m_pretrained_bnfrozen_r152_32x2x1_58e_kinetics400_rgb/20200809_053132.log
ircsn_r152.ig65m_k400_vmz       | ircsn_ig65m_pretrained_bnfrozen_r152_32x2x1_58e_kinetics400_rgb.py | short side 320 | x | ResNet152 | IG65M | 82.6 | 95.3 | x | infer_ckpt | vmz/vmz_ircsn_ig65m_pretrained_r152_32x2x1_58e_kinetics400_rgb_20210617-e63ee1bd.pth | x
ipcsn_r152.k400                 | ipcsn_bnfrozen_r152_32x2x1_180e_kinetics400_rgb | short side 320 | x | ResNet152 | None | 77.8 | 92.8 | x | infer_ckpt | vmz/vmz_ipcsn_from_scratch_r152_32x2x1_180e_kinetics400_rgb_20210617-d565828d.pth | x
ipcsn_r152.sports1m_k400        | ipcsn_sports1m_pretrained_bnfrozen_r152_32x2x1_58e_kinetics400_rgb | short side 320 | x | ResNet152 | Sports1M | 78.8 | 93.5 | x | infer_ckpt | vmz/vmz_ipcsn_sports1m_pretrained_r152_32x2x1_58e_kinetics400_rgb_20210617-3367437a.pth | x
ipcsn_r152.ig65m_k400           | ipcsn_ig65m_pretrained_bnfrozen_r152_32x2x1_58e_kinetics400_rgb | short side 320 | x | ResNet152 | IG65M | 82.5 | 95.3 | x | infer_ckpt | vmz/vmz_ipcsn_ig65m_pretrained_r152_32x2x1_58e_kinetics400_rgb_20210617-c3be9793.pth | x
ircsn_r152.ig65m_k400_bn        | ircsn_ig65m_pretrained_r152_32x2x1_58e_kinetics400_rgb.py | short side 320 | 8x4 | ResNet152 | IG65M | 80.14 | 94.93 | 8517 | ckpt | ircsn_ig65m_pretrained_r152_32x2x1_58e_kinetics400_rgb/ircsn_ig65m_pretrained_r152_32x2x1_58e_kinetics400_rgb_20200803-fc66ce8d.pth | ircsn_ig65m_pretrained_r152_32x2x1_58e_kinetics400_rgb/20200728_031952.log
tpn_slowonly_r50.k400           | tpn_slowonly_r50_8x8x1_150e_kinetics_rgb | short side 320 | 8x2 | ResNet50 | None | 73.58 | 91.35 | 6916 | ckpt | tpn_slowonly_r50_8x8x1_150e_kinetics_rgb/tpn_slowonly_r50_8x8x1_150e_kinetics_rgb-c568e7ad.pth | tpn_slowonly_r50_8x8x1_150e_kinetics_rgb/tpn_slowonly_r50_8x8x1_150e_kinetics_rgb.log
tpn_slowonly_r50.imagenet_k400  | tpn_imagenet_pretrained_slowonly_r50_8x8x1_150e_kinetics_rgb | short side 320 | 8 | ResNet50 | ImageNet | 76.59 | 92.72 | 6916 | ckpt | tpn_imagenet_pretrained_slowonly_r50_8x8x1_150e_kinetics_rgb/tpn_imagenet_pretrained_slowonly_r50_8x8x1_150e_kinetics_rgb-44362b55.pth | tpn_imagenet_pretrained_slowonly_r50_8x8x1_150e_kinetics_rgb/tpn_imagenet_pretrained_slowonly_r50_8x8x1_150e_kinetics_rgb.log
tpn_tsm_r50.tsm_sthv1           | tpn_tsm_r50_1x1x8_150e_sthv1_rgb | height 100 | 8x6 | ResNet50 | TSM | 51.50 | 79.15 | 8828 | ckpt | tpn_tsm_r50_1x1x8_150e_sthv1_rgb/tpn_tsm_r50_1x1x8_150e_sthv1_rgb_20211202-c28ed83f.pth | tpn_tsm_r50_1x1x8_150e_sthv1_rgb/tpn_tsm_r50_1x1x8_150e_sthv1_rgb.log
"""  # noqa: E501
SEED_ROWS = [[cell.strip() for cell in line.split("|")] for line in MMACTION2_ROWS.strip().splitlines()]

# VMZ's model zoo: architecture, trained on before, frames, top-1, top-5, fine-tuned file, pretrained file; the files
# below VMZ_ADDRESS.
VMZ_ROWS = """
r2plus1d_34  | ig65m    | 8  | 74.9 | 91.8 | p81twy88kwrrcop/r2plus1d_34_clip8_ft_kinetics_from_ig65m_%20f128022400.pkl | 6xwyu1az6oy4ts7/r2plus1d_34_clip8_ig65m_from_scratch_f79708462.pkl
r2plus1d_34  | ig65m    | 32 | 80.0 | 94.2 | z41ff7vs0bzf6b8/r2plus1d_34_clip32_ft_kinetics_from_ig65m_%20f106169681.pkl | eimo232tqw8mwi9/r2plus1d_34_clip32_ig65m_from_scratch_f102649996.pkl
r2plus1d_152 | x        | 32 | 77.3 | 92.5 | 9770y063u3z5bmb/r2plus1d_152_kinetics_from_scratch_f127858918.pkl | x
r2plus1d_152 | sports1m | 32 | 79.5 | 94.0 | twvcpe30rxuaf45/r2plus1d_152_ft_kinetics_from_sports1m_f128957437.pkl | w5cdqeyqukuaqt7/r2plus1d_152_sports1m_from_scratch_f127111290.pkl
r2plus1d_152 | ig65m    | 32 | 81.6 | 95.3 | tmxuae8ubo5gipy/r2plus1d_152_ft_kinetics_from_ig65m_f107107466.pkl | oqdg176p7nqc84v/r2plus1d_152_ig65m_from_scratch_f106380637.pkl
ircsn_r50    | ig65m    | 32 | x    | x    | b6o2mvoqrvupatt/irCSN_50_ft_kinetics_from_ig65m_f233743920.pkl | 1cqzndm1zobxvhh/irCSN_50_pretrained_ig65m_f231921860.pkl
ircsn_r152   | x        | 32 | 76.5 | 92.1 | 46gcm7up60ssx5c/irCSN_152_kinetics_from_scratch_f98268019.pkl | x
ircsn_r152   | sports1m | 32 | 78.2 | 93.0 | zuoj1aqouh6bo6k/irCSN_152_ft_kinetics_from_sports1m_f101599884.pkl | woh99y2hll1mlqv/irCSN_152_sports1m_from_scratch_f99918785.pkl
ircsn_r152   | ig65m    | 32 | 82.6 | 95.3 | gmd8r87l3wmkn3h/irCSN_152_ft_kinetics_from_ig65m_f126851907.pkl | r0kppq7ox6c57no/irCSN_152_ig65m_from_scratch_f125286141.pkl
ipcsn_r152   | x        | 32 | 77.8 | 92.8 | 3fihu6ti60047mu/ipCSN_152_kinetics_from_scratch_f129594342.pkl | x
ipcsn_r152   | sports1m | 32 | 78.8 | 93.5 | ir7cr0hda36knux/ipCSN_152_ft_kinetics_from_sports1m_f111279053.pkl | 70di7o7qz6gjq6x/ipCSN_152_sports1m_from_scratch_f111018543.pkl
ipcsn_r152   | ig65m    | 32 | 82.5 | 95.3 | zpp3p0vn2i7bibl/ipCSN_152_ft_kinetics_from_ig65m_f133090949.pkl | 1ryvx8k7kzs8od6/ipCSN_152_ig65m_from_scratch_f130601052.pkl
"""  # noqa: E501
VMZ_ZOO = [[cell.strip() for cell in line.split("|")] for line in VMZ_ROWS.strip().splitlines()]
VMZ_ADDRESS = "https://www.dropbox.com/s/"

# The conversions to PyTorch: weights, classes, file, number of the Caffe2 file that it was made from.
VMZ_PYTORCH = "https://github.com/bjuncek/VMZ/releases/download/test_models/"
IG65M_PYTORCH = "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/"
PYTORCH_ROWS = [
    ("r2plus1d_152.ig65m_raw_pt", 359, "r2plus1d_152_ig65m_from_scratch_f106380637.pth", "f106380637"),
    ("r2plus1d_152.ig65m_k400_pt", 400, "r2plus1d_152_ft_kinetics_from_ig65m_f107107466.pth", "f107107466"),
    ("r2plus1d_152.sports1m_k400_pt", 400, "r2plus1d_152_ft_kinetics_from_sports1m_f128957437.pth", "f128957437"),
    ("ircsn_r152.ig65m_raw_pt", 359, "irCSN_152_ig65m_from_scratch_f125286141.pth", "f125286141"),
    ("ircsn_r152.ig65m_k400_pt", 400, "irCSN_152_ft_kinetics_from_ig65m_f126851907.pth", "f126851907"),
    ("ircsn_r152.sports1m_raw_pt", 487, "irCSN_152_Sports1M_from_scratch_f99918785.pth", "f99918785"),
    ("ircsn_r152.sports1m_k400_pt", 400, "irCSN_152_ft_kinetics_from_Sports1M_f101599884.pth", "f101599884"),
    ("ipcsn_r152.ig65m_raw_pt", 359, "ipCSN_152_ig65m_from_scratch_f130601052.pth", "f130601052"),
    ("ipcsn_r152.ig65m_k400_pt", 400, "ipCSN_152_ft_kinetics_from_ig65m_f133090949.pth", "f133090949"),
    ("ipcsn_r152.sports1m_raw_pt", 487, "ipCSN_152_Sports1M_from_scratch_f111018543.pth", "f111018543"),
    ("ipcsn_r152.sports1m_k400_pt", 400, "ipCSN_152_ft_kinetics_from_Sports1M_f111279053.pth", "f111279053"),
    ("r2plus1d_34.ig65m_raw_clip8", 487, "r2plus1d_34_clip8_ig65m_from_scratch-9bae36ae.pth", "f79708462"),
    ("r2plus1d_34.ig65m_raw", 359, "r2plus1d_34_clip32_ig65m_from_scratch-449a7af9.pth", "f102649996"),
    ("r2plus1d_34.ig65m_k400_clip8", 400, "r2plus1d_34_clip8_ft_kinetics_from_ig65m-0aa0550b.pth", "f128022400"),
    ("r2plus1d_34.ig65m_k400", 400, "r2plus1d_34_clip32_ft_kinetics_from_ig65m-ade133f1.pth", "f106169681"),
]

TAGS = {
    "tpn_slowonly_r50": ["imagenet_k400", "k400"],
    "tpn_tsm_r50": ["tsm_sthv1"],
    "ircsn_r50": ["ig65m_k400", "k400", "ig65m_k400_c2", "ig65m_raw", "ig65m_raw_trunk"],
    "ircsn_r152": [
        *("ig65m_k400", "ig65m_k400_vmz", "ig65m_k400_bn", "sports1m_k400", "k400"),
        *("ig65m_k400_c2", "ig65m_k400_pt", "sports1m_k400_c2", "sports1m_k400_pt", "k400_c2"),
        *("ig65m_raw", "ig65m_raw_pt", "ig65m_raw_trunk", "sports1m_raw", "sports1m_raw_pt", "sports1m_raw_trunk"),
    ],
    "ipcsn_r152": [
        *("ig65m_k400", "sports1m_k400", "k400"),
        *("ig65m_k400_c2", "ig65m_k400_pt", "sports1m_k400_c2", "sports1m_k400_pt", "k400_c2"),
        *("ig65m_raw", "ig65m_raw_pt", "ig65m_raw_trunk", "sports1m_raw", "sports1m_raw_pt", "sports1m_raw_trunk"),
    ],
    "r2plus1d_34": [
        *("ig65m_k400", "ig65m_k400_c2", "ig65m_k400_clip8", "ig65m_k400_clip8_c2"),
        *("ig65m_raw", "ig65m_raw_c2", "ig65m_raw_clip8", "ig65m_raw_clip8_c2"),
    ],
    "r2plus1d_152": [
        *("ig65m_k400", "ig65m_k400_pt", "sports1m_k400", "sports1m_k400_pt", "k400"),
        *("ig65m_raw", "ig65m_raw_pt", "sports1m_raw"),
    ],
    "tsn_r50": [
        *("imagenet_k400_8seg", "imagenet_k400", "imagenet_k400_eval3", "imagenet_k400_eval7"),
        *("imagenet_k400_paddle20", "imagenet_raw"),
    ],
    "test_ircsn": ["motion8"],
    "test_tpn": ["motion8"],
    "test_tsn": ["motion8"],
}


def test_the_file_follows_the_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert [f"{list(error.absolute_path)}: {error.message}" for error in VALIDATOR.iter_errors(DATA)] == []


def test_the_file_has_no_faults_beyond_the_schema() -> None:
    assert manifest.faults(manifest.load()) == ()


def test_no_key_stands_twice_in_one_object() -> None:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), [key for key, _ in pairs]
        return dict(pairs)

    json.loads(manifest.path().read_text(encoding="utf-8"), object_pairs_hook=unique)


def test_every_object_of_the_schema_is_closed() -> None:
    def objects(node: Any) -> list[dict[str, Any]]:
        if isinstance(node, list):
            return [found for child in node for found in objects(child)]
        if not isinstance(node, dict):
            return []
        return [node] * (node.get("type") == "object") + [f for child in node.values() for f in objects(child)]

    found = objects(SCHEMA)
    assert len(found) > 10
    for node in found:
        closed = node["additionalProperties"] is False and set(node["required"]) == set(node["properties"])
        assert closed or "propertyNames" in node


def test_the_weights_are_these_and_the_first_of_each_architecture_is_its_default() -> None:
    tags: dict[str, list[str]] = {}
    for entry in manifest.load().entries:
        assert entry.default == (entry.architecture not in tags)
        tags.setdefault(entry.architecture, []).append(entry.tag)
    assert tags == TAGS


def cell(text: str, kind: Callable[[str], Any] = str) -> Any:
    return None if text in ("x", "None") else kind(text)


@pytest.mark.parametrize("row", SEED_ROWS, ids=[row[0] for row in SEED_ROWS])
def test_a_row_equals_the_cells_of_the_mmaction2_page(row: list[str]) -> None:
    name, config, resolution, gpus, backbone, pretrained, top1, top5, memory, kind, file, log = row
    folder = CSN if "csn" in name else TPN
    entry = ENTRIES[name]
    source, figures = entry.source, entry.figures
    assert entry.file is not None
    assert source.config == config
    assert source.config_path == f"configs/recognition/{folder.split('/')[-2]}/{config.removesuffix('.py')}.py"
    assert (source.resolution, source.gpus, source.backbone) == (resolution, cell(gpus), backbone)
    assert source.pretrained == cell(pretrained)
    assert entry.pretraining == (None if pretrained == "None" else pretrained.lower())
    assert (figures.top1_percent, figures.top5_percent) == (float(top1), float(top5))
    assert figures.gpu_memory_mb == cell(memory, int)
    assert figures.inference_videos_per_second is None
    assert source.checkpoint_kind == kind
    assert entry.file.urls == (folder + file,)
    assert entry.file.name == file.rpartition("/")[2]
    assert entry.file.sha256_prefix == file[-12:-4]
    assert (entry.file.sha256, entry.file.size_bytes) == (None, None)
    assert source.log_url == (None if log == "x" else folder + log)
    json_log = {"tpn": log.replace(".log", ".json"), "csn": log + ".json"}[folder.split("/")[-2]]
    assert source.json_log_url == (None if log == "x" else folder + json_log)
    assert (source.ported_from is not None) == (kind == "infer_ckpt")


def by_address(address: str) -> Entry:
    (entry,) = (entry for entry in ENTRIES.values() if entry.file is not None and entry.file.urls == (address,))
    return entry


@pytest.mark.parametrize("row", VMZ_ZOO, ids=[f"{row[0]}.{row[1]}.{row[2]}" for row in VMZ_ZOO])
def test_two_rows_equal_a_line_of_vmzs_model_zoo(row: list[str]) -> None:
    architecture, pretraining, frames, top1, top5, fine_tuned, pretrained = row
    tuned = by_address(f"{VMZ_ADDRESS}{fine_tuned}?dl=1")
    assert (tuned.architecture, tuned.pretraining) == (architecture, cell(pretraining))
    assert (tuned.figures.top1_percent, tuned.figures.top5_percent) == (cell(top1, float), cell(top5, float))
    assert (tuned.dataset, tuned.num_classes, tuned.is_raw) == ("kinetics400", 400, False)
    found = [tuned]
    if pretrained != "x":
        raw = by_address(f"{VMZ_ADDRESS}{pretrained}?dl=1")
        classes = {"sports1m": 487, "ig65m": 487 if frames == "8" else 359}[pretraining]
        assert (raw.architecture, raw.pretraining, raw.num_classes) == (architecture, None, classes)
        assert (raw.dataset.partition("_")[0], raw.figures.top1_percent, raw.is_raw) == (pretraining, None, True)
        assert raw.tag.startswith(f"{pretraining}_raw")
        found.append(raw)
    for entry in found:
        assert entry.file is not None
        assert (entry.file.format, entry.file.layout) == ("caffe2_pickle", "vmz_caffe2")
        assert (entry.file.sha256, entry.file.sha256_prefix) == (None, None)
        assert {entry.protocol.full.num_frames, entry.protocol.center.num_frames} == {int(frames)}
        assert (entry.source.zoo, entry.license.code, entry.license.weights) == ("VMZ", "Apache-2.0", None)
    assert tuned.file is not None
    assert tuned.file.name == fine_tuned.partition("/")[2].replace("%20", " ")


def test_every_caffe2_row_is_of_the_model_zoo() -> None:
    rows = [entry for entry in ENTRIES.values() if entry.file is not None and entry.file.layout == "vmz_caffe2"]
    assert len(rows) == 21 == sum(1 + (row[-1] != "x") for row in VMZ_ZOO)


@pytest.mark.parametrize(("name", "classes", "file", "number"), PYTORCH_ROWS, ids=[row[0] for row in PYTORCH_ROWS])
def test_a_conversion_to_pytorch_belongs_to_its_caffe2_file(name: str, classes: int, file: str, number: str) -> None:
    entry = ENTRIES[name]
    by_moabit = name.startswith("r2plus1d_34")
    assert entry.file is not None
    assert entry.file.urls == ((IG65M_PYTORCH if by_moabit else VMZ_PYTORCH) + file,)
    assert (entry.file.format, entry.file.layout) == ("torch", "vmz_torch")
    assert (entry.file.sha256, entry.file.sha256_prefix) == (None, file[-12:-4] if by_moabit else None)
    assert (entry.source.zoo, entry.license.code) == (("ig65m-pytorch", "MIT") if by_moabit else ("VMZ", "Apache-2.0"))
    assert entry.num_classes == classes
    original = by_address(entry.source.ported_from or "")
    assert original.file is not None
    assert original.file.name.endswith(f"{number}.pkl")
    same = ("architecture", "pretraining", "dataset", "num_classes")
    assert [getattr(entry, key) for key in same] == [getattr(original, key) for key in same]
    assert (entry.figures.top1_percent, entry.figures.top5_percent) == (
        original.figures.top1_percent,
        original.figures.top5_percent,
    )
    assert (entry.protocol.full, entry.protocol.center) == (original.protocol.full, original.protocol.center)


def test_every_row_in_vmzs_pytorch_names_is_listed() -> None:
    rows = {name for name, entry in ENTRIES.items() if entry.file is not None and entry.file.layout == "vmz_torch"}
    assert rows == {row[0] for row in PYTORCH_ROWS}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("ircsn_r50.ig65m_raw_trunk", "ircsn_from_scratch_r50_ig65m_20210617-ce545a37.pth"),
        ("ircsn_r152.ig65m_raw_trunk", "ircsn_from_scratch_r152_ig65m_20200807-771c4135.pth"),
        ("ircsn_r152.sports1m_raw_trunk", "ircsn_from_scratch_r152_sports1m_20210617-bcc9c0dd.pth"),
        ("ipcsn_r152.ig65m_raw_trunk", "ipcsn_from_scratch_r152_ig65m_20210617-c4b99d38.pth"),
        ("ipcsn_r152.sports1m_raw_trunk", "ipcsn_from_scratch_r152_sports1m_20210617-7a7cc5b9.pth"),
    ],
)
def test_a_trunk_of_mmaction2_has_no_classes(name: str, file: str) -> None:
    entry = ENTRIES[name]
    assert entry.file is not None
    assert (entry.file.urls, entry.file.sha256_prefix) == ((CSN + file,), file[-12:-4])
    assert (entry.file.layout, entry.num_classes, entry.pretraining) == ("mmaction2", 0, None)


def test_rows_without_a_classifier_are_the_trunks() -> None:
    assert {name for name, entry in ENTRIES.items() if entry.num_classes == 0} == {
        "tsn_r50.imagenet_raw",
        *(name for name in ENTRIES if name.endswith("_raw_trunk")),
    }


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.is_raw])
def test_a_raw_row_is_not_the_default_and_says_what_it_is(name: str) -> None:
    entry = ENTRIES[name]
    assert (entry.default, entry.pretraining, entry.figures.top1_percent) == (False, None, None)
    assert manifest.load().datasets[entry.dataset].labels is None
    assert any(note.startswith("Only pretrained") for note in entry.notes)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_a_file_without_a_digest_says_so(entry: Entry) -> None:
    if entry.file is not None and not entry.file.embedded:
        unknown = entry.file.sha256 is None and entry.file.sha256_prefix is None
        assert unknown == ("The publisher gives no digest." in entry.notes)


@pytest.mark.parametrize(("dataset", "count"), [("ig65m", 359), ("ig65m_487", 487), ("sports1m", 487)])
def test_a_dataset_of_pretraining_has_classes_but_no_names(dataset: str, count: int) -> None:
    assert manifest.load().datasets[dataset].num_classes == count
    with pytest.raises(InvalidArgument, match="no class names"):
        labels(dataset)


def test_only_the_imagenet_tpn_row_has_reference_figures() -> None:
    figures = ENTRIES["tpn_slowonly_r50.imagenet_k400"].figures
    assert (figures.reference_top1_percent, figures.reference_top5_percent) == (75.49, 92.05)
    assert figures.reference_url == "https://github.com/decisionforce/TPN/blob/master/MODELZOO.md"
    with_reference = [name for name, entry in ENTRIES.items() if entry.figures.reference_top1_percent is not None]
    assert with_reference == ["tpn_slowonly_r50.imagenet_k400"]


@pytest.mark.parametrize(
    ("tag", "top1", "file", "frames", "crop"),
    [
        ("imagenet_k400_8seg", 71.70, "TSN_k400_8.pdparams", 25, "ten"),
        ("imagenet_k400", 69.81, "TSN_k400.pdparams", 25, "ten"),
        ("imagenet_k400_eval3", 66.0, None, 3, "center"),
        ("imagenet_k400_eval7", 67.0, None, 7, "center"),
        ("imagenet_k400_paddle20", None, "TSN.pdparams", 7, "center"),
        ("imagenet_raw", None, "ResNet50_pretrain.pdparams", 3, "center"),
    ],
)
def test_a_tsn_row_equals_the_paddlevideo_pages(
    tag: str, top1: float | None, file: str | None, frames: int, crop: str
) -> None:
    entry = ENTRIES[f"tsn_r50.{tag}"]
    assert (entry.figures.top1_percent, entry.figures.top5_percent) == (top1, None)
    folders = {
        "TSN.pdparams": "https://paddlemodels.bj.bcebos.com/video_classification/",
        "ResNet50_pretrain.pdparams": "https://videotag.bj.bcebos.com/PaddleVideo/PretrainModel/",
    }
    folder = folders.get(file or "", "https://videotag.bj.bcebos.com/PaddleVideo-release2.2/")
    assert (entry.file and entry.file.urls) == ((f"{folder}{file}",) if file else None)
    assert (entry.file and entry.file.sha256_prefix) is None
    views = entry.protocol.full
    assert (views.sampling, views.num_frames) == ("paddlevideo_segments", frames)
    assert (views.crop, views.crop_size, views.average_clips) == (crop, 224, None)
    assert entry.protocol.center.crop == "center"


IMAGENET_MEAN, VMZ_MEAN, MOTION_MEAN = (123.675, 116.28, 103.53), (110.2008, 100.63983, 95.99475), (127.5,) * 3
CAFFE2_MEAN = (110.201, 100.64, 95.9966)
STD = {
    IMAGENET_MEAN: (58.395, 57.12, 57.375),
    VMZ_MEAN: (58.14765, 56.46975, 55.332195),
    CAFFE2_MEAN: (58.1489, 56.4701, 55.3324),
    MOTION_MEAN: (63.75,) * 3,
}
VMZ_NORMALISED = {
    "ircsn_r152.k400",
    "ircsn_r152.sports1m_k400",
    "ipcsn_r152.k400",
    "ipcsn_r152.sports1m_k400",
    *(row[0] for row in PYTORCH_ROWS),
    *(name for name in ENTRIES if name.endswith("_raw_trunk")),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_row_is_normalised_as_its_weights_were_trained(name: str) -> None:
    entry = ENTRIES[name]
    mean = MOTION_MEAN if name.startswith("test_") else VMZ_MEAN if name in VMZ_NORMALISED else IMAGENET_MEAN
    if entry.file is not None and entry.file.layout == "vmz_caffe2":
        mean = CAFFE2_MEAN
    given = entry.protocol.input
    assert (given.mean, given.std) == (mean, STD[mean])


FULL = {
    "csn": Views("clips", 32, 2, 10, False, 256, "three", 256, "prob"),
    "tpn_slowonly": Views("clips", 8, 8, 10, False, 256, "three", 256, "prob"),
    "slowonly": Views("clips", 8, 8, 10, False, 256, "three", 256, "prob"),
    "tpn_tsm": Views("segments", 8, 1, 1, True, 256, "three", 256, "prob"),
    "tsm": Views("segments", 8, 1, 1, False, 256, "center", 224, "prob"),
    "tsn": Views("segments", 25, 1, 1, False, 256, "ten", 224, None),
    "r2plus1d": Views("clips", 32, 1, 10, False, 128, "center", 112, "prob"),
}


@pytest.mark.parametrize("name", [name for name in manifest.load().architectures if not name.startswith("test_")])
def test_an_architecture_is_tested_as_upstream_tests_it(name: str) -> None:
    spec = manifest.load().architectures[name]
    family = spec.family if spec.family in FULL else name.removesuffix("_r50")
    protocol = spec.protocol
    assert protocol.full == FULL[family]
    crop_size = 112 if family == "r2plus1d" else 224
    assert (protocol.center.crop, protocol.center.crop_size, protocol.center.num_clips) == ("center", crop_size, 1)
    assert not protocol.center.twice_sample
    for entry in ENTRIES.values():
        if entry.architecture == name and name != "tsn_r50":
            assert replace(entry.protocol.full, num_frames=FULL[family].num_frames) == FULL[family]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ircsn_r50", 13131152),
        ("ircsn_r152", 29703568),
        ("ipcsn_r50", 14396176),
        ("ipcsn_r152", 33016592),
        ("tpn_slowonly_r50", 91498336),
        ("tpn_tsm_r50", 82445724),
        ("slowonly_r50", 32454096),
        ("tsm_r50", 24327632),
        ("tsn_r50", 24327632),
    ],
)
def test_the_parameter_counts_are_the_originals(name: str, count: int) -> None:
    assert manifest.load().architectures[name].num_parameters == count


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_a_figure_says_which_protocol_gave_it(entry: Entry) -> None:
    words = entry.figures.protocol
    assert (entry.figures.top1_percent is None) == (words is None)
    if words is not None:
        assert all(part in words for part in (f"{entry.protocol.full.crop_size} pixels", "averaged"))
        by_vmz = entry.source.zoo == "VMZ" or entry.source.ported_from is not None
        assert ("VMZ's own figure" in words) == (by_vmz and entry.architecture != "ircsn_r50")


@pytest.mark.parametrize("name", ["csn", "ig65m", "tpn", "tsn", "tsm", "slowfast"])
def test_the_citation_is_carried(name: str) -> None:
    assert manifest.load().citations[name].startswith("@")


# ------------------------------------------------------------------ hostile and careless manifests

FILE = ("weights", 0, "file")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((*FILE, "name"), "../evil.pth"),
        ((*FILE, "name"), "a/b.pth"),
        ((*FILE, "name"), "a..b.pth"),
        ((*FILE, "name"), "/etc/passwd.pth"),
        ((*FILE, "name"), "C:evil.pth"),
        ((*FILE, "name"), ".hidden.pth"),
        ((*FILE, "name"), "evil.pth\n"),
        ((*FILE, "name"), "evil.exe"),
        ((*FILE, "name"), "evil .pth"),
        ((*FILE, "name"), "two  spaces.pth"),
        ((*FILE, "name"), ""),
        ((*FILE, "urls"), []),
        ((*FILE, "urls"), ["http://download.openmmlab.com/a.pth"]),
        ((*FILE, "urls"), ["file:///etc/passwd"]),
        ((*FILE, "urls"), ["https://user:word@example.org/a.pth"]),
        ((*FILE, "urls"), ["https://example.org:8443/a.pth"]),
        ((*FILE, "urls"), ["https://example.org/a/../b.pth"]),
        ((*FILE, "urls"), ["https://example.org/a.pth?x=1"]),
        ((*FILE, "urls"), ["https://example.org/a.pth?dl=1"]),
        ((*FILE, "urls"), ["https://www.dropbox.com/s/a.pkl?dl=0"]),  # a page about the file
        ((*FILE, "urls"), ["https://www.dropbox.com/s/a.pkl"]),
        ((*FILE, "urls"), ["https://www.dropbox.com/s/../a.pkl?dl=1"]),
        ((*FILE, "urls"), ["https://www.dropbox.com/s/a.pkl?dl=1&x=1"]),
        ((*FILE, "urls"), ["https://www.dropbox.com/s/a.pkl?dl=1\n"]),
        ((*FILE, "urls"), ["https://example.org/a%2Fb.pth"]),
        ((*FILE, "urls"), ["https://example.org/a.pth\n"]),
        ((*FILE, "urls"), ["https://example.org/a.pth", "https://example.org/a.pth"]),
        ((*FILE, "urls"), "https://example.org/a.pth"),
        ((*FILE, "embedded"), True),
        ((*FILE, "sha256"), "86d33018"),
        ((*FILE, "sha256"), "A" * 64),
        ((*FILE, "sha256"), "a" * 64 + "\n"),
        ((*FILE, "sha256"), ""),
        ((*FILE, "sha256_prefix"), "86d3301"),
        ((*FILE, "sha256_prefix"), "86d3301g"),
        ((*FILE, "size_bytes"), 0),
        ((*FILE, "size_bytes"), -1),
        ((*FILE, "format"), "pickle"),
        ((*FILE, "layout"), None),
        ((*FILE, "huggingface_repo"), "../repo"),
        ((*FILE, "surprise"), 1),
        (("surprise",), 1),
        (("weights",), []),
        (("weights", 0, "tag"), "../k400"),
        (("weights", 0, "tag"), "IG65M_k400"),
        (("weights", 0, "tag"), "k400\n"),
        (("weights", 0, "architecture"), "ircsn.r50"),
        (("weights", 0, "pretraining"), ""),
        (("weights", 0, "default"), "yes"),
        (("weights", 0, "num_classes"), -1),
        (("weights", 0, "notes"), [""]),
        (("weights", 0, "notes"), ["TBD"]),
        (("weights", 0, "expectation"), {"logits": [], "tolerance": 0.1}),
        (("weights", 0, "expectation"), {"logits": ["1"], "tolerance": 0.1}),
        (("weights", 0, "expectation"), {"logits": [1.0] * 9, "tolerance": 0.1}),
        (("weights", 0, "expectation"), {"logits": [1.0], "tolerance": 0}),
        (("weights", 0, "expectation"), {"logits": [1.0]}),
        (("weights", 0, "surprise"), 1),
        (("weights", 0, "figures", "top1_percent"), 0.66),
        (("weights", 0, "figures", "top1_percent"), 100.1),
        (("weights", 0, "figures", "top1_percent"), "79.0"),
        (("weights", 0, "figures", "gpu_memory_mb"), "x"),
        (("weights", 0, "figures", "protocol"), None),
        (("weights", 0, "figures", "protocol"), "TBD"),
        (("weights", 0, "source", "resolution"), "x"),
        (("weights", 0, "source", "pretrained"), "None"),
        (("weights", 0, "source", "gpus"), "8x"),
        (("weights", 0, "source", "config"), ""),
        (("weights", 0, "source", "config_path"), "../../secret.py"),
        (("weights", 0, "source", "page"), "http://example.org/page.md"),
        (("weights", 0, "source", "log_url"), "ftp://example.org/a.log"),
        (("weights", 0, "source", "checkpoint_kind"), "other"),
        (("weights", 0, "license", "code"), None),
        (("weights", 0, "protocol", "input", "std"), [0, 0, 0]),
        (("weights", 0, "protocol", "input", "mean"), []),
        (("weights", 0, "protocol", "full", "crop"), "five"),
        (("weights", 0, "protocol", "full", "num_frames"), 0),
        (("weights", 0, "protocol", "full", "sampling"), "segments"),
        (("weights", 0, "protocol", "full", "average_clips"), "none"),
        (("datasets", "kinetics400", "labels"), "../labels.txt"),
        (("datasets", "Kinetics"), {"title": "K", "num_classes": 1, "labels": None}),
        (("citations", "csn"), "TBD"),
    ],
    ids=lambda part: ".".join(map(str, part)) if isinstance(part, tuple) else None,
)
def test_the_schema_refuses(place: tuple[str | int, ...], value: object) -> None:
    data = copy.deepcopy(DATA)
    node = data
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    assert not VALIDATOR.is_valid(data)


def required_places() -> list[tuple[str | int, ...]]:
    row = DATA["weights"][0]
    places: list[tuple[str | int, ...]] = [("weights", 0, key) for key in row]
    for part in ("file", "figures", "source", "license", "protocol"):
        places += [("weights", 0, part, key) for key in row[part]]
    return places


@pytest.mark.parametrize("place", required_places(), ids=lambda place: ".".join(map(str, place)))
def test_the_schema_wants_every_key(place: tuple[str | int, ...]) -> None:
    data = copy.deepcopy(DATA)
    node = data
    for key in place[:-1]:
        node = node[key]
    del node[place[-1]]
    assert not VALIDATOR.is_valid(data)


def repeat_first(data: dict[str, Any]) -> None:
    data["weights"].append(copy.deepcopy(data["weights"][0]) | {"default": False})


def clash_of_case(data: dict[str, Any]) -> None:
    name = data["weights"][1]["file"]["name"]
    data["weights"][0]["file"] |= {"name": name.upper()}


def same_prefix(data: dict[str, Any]) -> None:
    data["weights"][0]["file"]["sha256_prefix"] = data["weights"][1]["file"]["sha256_prefix"]


def same_digest(data: dict[str, Any]) -> None:
    for row in data["weights"][-2:]:
        row["file"]["sha256"] = "a" * 64


def two_defaults(data: dict[str, Any]) -> None:
    data["weights"][1]["default"] = True


def no_default(data: dict[str, Any]) -> None:
    data["weights"][0]["default"] = False


def unlike_digest(data: dict[str, Any]) -> None:
    data["weights"][0]["file"]["sha256"] = "0" * 64


def unlike_url(data: dict[str, Any]) -> None:
    data["weights"][0]["file"]["urls"] = ["https://example.org/other.pth"]


def unknown_architecture(data: dict[str, Any]) -> None:
    data["weights"][0]["architecture"] = "ircsn_r51"


def unknown_dataset(data: dict[str, Any]) -> None:
    data["weights"][0]["dataset"] = "kinetics600"


def unknown_citation(data: dict[str, Any]) -> None:
    data["architectures"]["tsn_r50"]["citation"] = "nobody"


def unlike_classes(data: dict[str, Any]) -> None:
    data["weights"][0]["num_classes"] = 401


def raw_but_meant_by_its_pretraining(data: dict[str, Any]) -> None:
    data["weights"][0] |= {"tag": "ig65m_raw_k400"}


def no_classes(data: dict[str, Any]) -> None:
    data["weights"][0]["num_classes"] = 0


def unlike_pretraining(data: dict[str, Any]) -> None:
    data["weights"][0]["pretraining"] = "imagenet"


def too_large_crop(data: dict[str, Any]) -> None:
    data["weights"][0]["protocol"]["center"]["crop_size"] = 257


def one_mean(data: dict[str, Any]) -> None:
    data["weights"][0]["protocol"]["input"]["mean"] = [123.675]


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (repeat_first, "weights 'ircsn_r50.ig65m_k400' occurs 2 times"),
        (clash_of_case, "file name 'ircsn_bnfrozen_r50_32x2x1_180e_kinetics400_rgb_20210618-4e29e2e8.pth' occurs 2"),
        (same_prefix, "sha256 prefix '4e29e2e8' occurs 2 times"),
        (same_digest, f"sha256 '{'a' * 64}' occurs 2 times"),
        (two_defaults, "ircsn_r50: the first row, and no other, must be the default"),
        (no_default, "ircsn_r50: the first row, and no other, must be the default"),
        (unlike_digest, "does not start with 86d33018"),
        (unlike_url, "does not end in the file name"),
        (unknown_architecture, "unknown architecture 'ircsn_r51'"),
        (unknown_dataset, "unknown dataset 'kinetics600'"),
        (unknown_citation, "unknown citation 'nobody'"),
        (unlike_classes, "401 classes, but kinetics400 has 400"),
        (raw_but_meant_by_its_pretraining, "weights that were only pretrained are found by their tag alone"),
        (no_classes, "0 classes, but only weights that were only pretrained may lack a classifier"),
        (unlike_pretraining, "the tag does not start with its pretraining 'imagenet'"),
        (too_large_crop, "center: a crop of 257 pixels does not fit a short side of 256"),
        (one_mean, "1 means, but 3 standard deviations"),
    ],
    ids=lambda part: getattr(part, "__name__", None),
)
def test_a_fault_beyond_the_schema_is_named(damage: Callable[[dict[str, Any]], None], fault: str) -> None:
    data = copy.deepcopy(DATA)
    damage(data)
    found = manifest.faults(manifest.parse(data))
    assert any(fault in line for line in found), found


# ------------------------------------------------------------------ labels and the README's table


@pytest.mark.parametrize(
    ("dataset", "count", "first", "last"),
    [
        ("kinetics400", 400, "abseiling", "zumba"),
        ("sthv1", 174, "Holding something", "Poking a hole into some substance"),
        ("motion8", 8, "left", "turn right"),
    ],
)
def test_labels_are_as_many_as_the_classes_and_differ(dataset: str, count: int, first: str, last: str) -> None:
    names = labels(dataset)
    assert len(names) == len(set(names)) == manifest.load().datasets[dataset].num_classes == count
    assert (names[0], names[-1]) == (first, last)
    assert all(name and name == name.strip() for name in names)


def test_labels_of_an_unknown_dataset_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"no class names.*'k400'.*kinetics400, sthv1, motion8"):
        labels("k400")


def test_the_table_shows_every_row_but_the_embedded_ones() -> None:
    lines = weights_table().splitlines()
    table = [line for line in lines if line.startswith("| `")]
    assert [line.split("`")[1] for line in table] == [name for name in ENTRIES if not name.startswith("test_")]
    (line,) = (line for line in table if "`ircsn_r152.ig65m_k400`" in line)
    assert [part.strip() for part in line.strip("|").split("|")][1:] == [
        "82.76",
        "95.68",
        "32 x 2",
        "10 clips x 3 crops of 256",
        "400",
        "IG65M",
        "`9037a758`",
        "`ircsn_ig65m_pretrained_bnfrozen_r152_32x2x1_58e_kinetics400_rgb.py`",
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tpn_tsm_r50.tsm_sthv1", "2 x 8 segments x 3 crops of 256"),
        ("tsn_r50.imagenet_k400", "25 segments x 10 crops of 224"),
        ("test_ircsn.motion8", "1 clip x 1 crop of 32"),
    ],
)
def test_views_in_words(name: str, words: str) -> None:
    assert views_in_words(ENTRIES[name].protocol.full) == words


def test_the_marked_block_of_a_readme_is_rewritten_and_nothing_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    assert main([str(readme)]) == 0
    text = readme.read_text(encoding="utf-8")
    assert text == f"before\n{BEGIN}\n{weights_table()}\n{END}\nafter\n"
    assert with_weights_table(text) == text


def test_the_table_of_the_projects_readme_is_fresh() -> None:
    readme = Path(__file__).parents[1] / "README.md"
    text = readme.read_text(encoding="utf-8")
    assert with_weights_table(text) == text, "run: python -m videozoo.tables README.md"


@pytest.mark.parametrize("text", ["", BEGIN, END + BEGIN, f"{BEGIN}{END}{BEGIN}{END}", f"{BEGIN}{END}{END}"])
def test_a_readme_without_the_two_markers_is_left_alone(text: str, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    assert main([str(readme)]) == InvalidArgument.exit_status
    assert readme.read_text(encoding="utf-8") == text
