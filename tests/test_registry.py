"""Names: which architectures and weights there are, and which row a name means."""

from __future__ import annotations

import subprocess
import sys

import pytest

from videozoo import registry
from videozoo.errors import InvalidArgument, UnknownModel, UnknownWeights
from videozoo.manifest import load

MODELS = [
    "ipcsn_r101",
    "ipcsn_r152",
    "ipcsn_r50",
    "ircsn_r101",
    "ircsn_r152",
    "ircsn_r50",
    "r2plus1d_152",
    "r2plus1d_18",
    "r2plus1d_34",
    "r3d_18",
    "slowonly_r50",
    "tpn_slowonly_r50",
    "tpn_tsm_r50",
    "tsm_r50",
    "tsn_r50",
]
TEST_MODELS = ["test_ircsn", "test_tpn", "test_tsn"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", MODELS),
        ("ircsn*", ["ircsn_r101", "ircsn_r152", "ircsn_r50"]),
        ("i[rp]csn_r50", ["ipcsn_r50", "ircsn_r50"]),
        ("ts?_r50", ["tsm_r50", "tsn_r50"]),
        ("TSN*", []),
        ("*tsn", []),
        ("", []),
        ("test_*", TEST_MODELS),
        ("test_tpn", ["test_tpn"]),
        ("t*", ["tpn_slowonly_r50", "tpn_tsm_r50", "tsm_r50", "tsn_r50"]),
    ],
)
def test_list_models(pattern: str, names: list[str]) -> None:
    assert registry.list_models(pattern) == names


def test_list_models_without_a_filter_hides_the_test_models() -> None:
    assert registry.list_models() == MODELS


def test_list_models_with_weights() -> None:
    without_weights = {"ipcsn_r50", "ipcsn_r101", "ircsn_r101", "r2plus1d_18", "r3d_18", "slowonly_r50", "tsm_r50"}
    assert registry.list_models(pretrained=True) == [name for name in MODELS if name not in without_weights]


@pytest.mark.parametrize("name", MODELS + TEST_MODELS)
def test_a_model_is_one(name: str) -> None:
    assert registry.is_model(name)
    assert registry.architecture(name).name == name


@pytest.mark.parametrize("name", ["", "ircsn", "IRCSN_R50", "ircsn_r50.k400", "ircsn_r50\n"])
def test_another_name_is_no_model(name: str) -> None:
    assert not registry.is_model(name)


@pytest.mark.parametrize(
    ("name", "near"), [("ircsn_50", "ircsn_r50"), ("tsn_r18", "tsn_r50"), ("tpn_tsn_r50", "tpn_tsm_r50")]
)
def test_an_unknown_model_is_answered_with_near_names_and_the_command(name: str, near: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        registry.architecture(name)
    message = str(caught.value)
    assert all(word in message for word in (repr(name), near, "videozoo list")), message
    assert "\n" not in message


def test_a_name_like_no_other_is_still_answered_with_the_command() -> None:
    with pytest.raises(UnknownModel, match=r"^no model is called 'zzzz'; `videozoo list` prints all of them$"):
        registry.architecture("zzzz")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("tpn*", ["tpn_slowonly_r50.imagenet_k400", "tpn_slowonly_r50.k400", "tpn_tsm_r50.tsm_sthv1"]),
        ("*.sports1m_k400", ["ipcsn_r152.sports1m_k400", "ircsn_r152.sports1m_k400", "r2plus1d_152.sports1m_k400"]),
        ("r2plus1d_34.*raw", ["r2plus1d_34.ig65m_raw"]),
        ("test_*", ["test_ircsn.motion8", "test_tpn.motion8", "test_tsn.motion8"]),
        ("*motion8", []),
    ],
)
def test_list_weights(pattern: str, names: list[str]) -> None:
    assert registry.list_weights(pattern) == names


def test_list_weights_without_a_filter() -> None:
    assert registry.list_weights() == sorted(e.name for e in load().entries if not e.architecture.startswith("test_"))
    assert len(registry.list_weights()) == 60


@pytest.mark.parametrize("name", [entry.name for entry in load().entries])
def test_weights_are_had_by_their_name(name: str) -> None:
    assert registry.get_weights(name).name == name


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("tpn_slowonly_r50", "tpn_slowonly_r50.imagenet_k400"),
        ("tsn_r50", "tsn_r50.imagenet_k400_8seg"),
        ("ircsn_r152", "ircsn_r152.ig65m_k400"),
        ("r2plus1d_34", "r2plus1d_34.ig65m_k400"),
        ("r2plus1d_34_8_kinetics", "r2plus1d_34.ig65m_k400_clip8"),
        ("tpn_slowonly_r50_8x8x1_150e_kinetics_rgb", "tpn_slowonly_r50.k400"),
        ("tpn_slowonly_r50_8x8x1_150e_kinetics_rgb.py", "tpn_slowonly_r50.k400"),
        ("ircsn_ig65m_pretrained_r152_32x2x1_58e_kinetics400_rgb.py", "ircsn_r152.ig65m_k400_bn"),
        ("ircsn_ig65m_pretrained_r152_32x2x1_58e_kinetics400_rgb", "ircsn_r152.ig65m_k400_bn"),
    ],
)
def test_weights_are_had_by_architecture_and_by_upstream_config(name: str, weights: str) -> None:
    assert registry.get_weights(name).name == weights


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ircsn_r50.k600", ["'k600'", "ig65m_k400, k400"]),
        ("ircsn_r50.", ["ircsn_r50", "ig65m_k400, k400"]),
        ("ircsn_r51.k400", ["'ircsn_r51.k400'", "ircsn_r50.k400", "videozoo list"]),
        ("slowonly_r50", ["slowonly_r50 has no published weights", "checkpoint_path"]),
        ("slowonly_r50.k400", ["slowonly_r50", "'k400'", "checkpoint_path"]),
        ("zzzz", ["'zzzz'", "videozoo list"]),
        (
            "ircsn_ig65m_pretrained_bnfrozen_r152_32x2x1_58e_kinetics400_rgb",
            ["several", "ircsn_r152.ig65m_k400, ircsn_r152.ig65m_k400_vmz"],
        ),
    ],
)
def test_unknown_weights_are_answered_with_what_there_is(name: str, words: list[str]) -> None:
    with pytest.raises(UnknownWeights) as caught:
        registry.get_weights(name)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("architecture", "pretrained", "tag"),
    [
        ("ircsn_r152", True, "ig65m_k400"),
        ("ircsn_r152", "ig65m", "ig65m_k400"),
        ("ircsn_r152", "sports1m", "sports1m_k400"),
        ("ircsn_r152", "k400", "k400"),
        ("ircsn_r152", "ig65m_k400_vmz", "ig65m_k400_vmz"),
        ("ircsn_r152", "ircsn_r152.ig65m_k400_bn", "ig65m_k400_bn"),
        ("ircsn_r50", "ig65m", "ig65m_k400"),
        ("ipcsn_r152", "ig65m", "ig65m_k400"),
        ("ipcsn_r152", "sports1m", "sports1m_k400"),
        ("ircsn_r152", "ig65m_raw", "ig65m_raw"),
        ("ircsn_r152", "sports1m_raw_pt", "sports1m_raw_pt"),
        ("r2plus1d_34", True, "ig65m_k400"),
        ("r2plus1d_34", "ig65m", "ig65m_k400"),
        ("r2plus1d_34", "r2plus1d_34.ig65m_raw_clip8", "ig65m_raw_clip8"),
        ("r2plus1d_152", True, "ig65m_k400"),
        ("r2plus1d_152", "sports1m", "sports1m_k400"),
        ("r2plus1d_152", "k400", "k400"),
        ("tpn_tsm_r50", "tsm", "tsm_sthv1"),
        ("tsn_r50", "imagenet", "imagenet_k400_8seg"),
        ("tsn_r50", "imagenet_k400_eval3", "imagenet_k400_eval3"),
        ("test_tpn", True, "motion8"),
    ],
)
def test_resolve_weights(architecture: str, pretrained: bool | str, tag: str) -> None:
    assert registry.resolve_weights(architecture, pretrained).name == f"{architecture}.{tag}"


def test_weights_that_were_only_pretrained_are_meant_by_their_tag_alone() -> None:
    raw = [row for row in load().entries if row.is_raw]
    assert raw
    for row in raw:
        found = [registry.resolve_weights(row.architecture, name) for name in (True, row.tag.partition("_raw")[0])]
        assert not any(entry.is_raw for entry in found)
        assert registry.resolve_weights(row.architecture, row.tag) == row


@pytest.mark.parametrize(
    ("architecture", "pretrained", "words"),
    [
        ("ircsn_r50", "sports1m", ["'sports1m'", "ig65m_k400, k400"]),
        ("ircsn_r50", "", ["''", "ig65m_k400, k400"]),
        ("ircsn_r50", "ircsn_r152.ig65m_k400", ["'ircsn_r152.ig65m_k400'", "ig65m_k400, k400"]),
        ("tsm_r50", True, ["tsm_r50 has no published weights", "checkpoint_path"]),
    ],
)
def test_weights_that_an_architecture_lacks(architecture: str, pretrained: bool | str, words: list[str]) -> None:
    with pytest.raises(UnknownWeights) as caught:
        registry.resolve_weights(architecture, pretrained)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_weights_of_an_unknown_architecture_or_of_none() -> None:
    with pytest.raises(UnknownModel, match="ircsn_r50"):
        registry.resolve_weights("ircsn_r51", True)
    with pytest.raises(InvalidArgument, match="pretrained=False"):
        registry.resolve_weights("ircsn_r50", False)


@pytest.mark.parametrize(
    ("digest", "name"),
    [
        ("9037a758" + "0" * 56, "ircsn_r152.ig65m_k400"),
        ("C28ED83F" + "F" * 56, "tpn_tsm_r50.tsm_sthv1"),
        ("e63ee1bd", "ircsn_r152.ig65m_k400_vmz"),
        ("00000000" + "9037a758" * 7, None),
        ("00000000", None),
    ],
)
def test_find_by_digest(digest: str, name: str | None) -> None:
    found = registry.find_by_digest(digest)
    assert (found and found.name) == name


@pytest.mark.parametrize("digest", ["", "9037a75", "9037a7580", "9037a75g", "9037a758\n", "g" * 64])
def test_a_digest_of_another_form_is_refused(digest: str) -> None:
    with pytest.raises(InvalidArgument, match="64 hexadecimal digits"):
        registry.find_by_digest(digest)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("150e_sthv1", ["tpn_tsm_r50.tsm_sthv1"]),
        ("bnfrozen_r50", ["ircsn_r50.ig65m_k400", "ircsn_r50.k400"]),
        ("TSN_K400_8.pdparams", ["tsn_r50.imagenet_k400_8seg"]),
        ("nothing like it", []),
    ],
)
def test_search_reads_upstream_names(text: str, names: list[str]) -> None:
    assert registry.search(text) == names


def test_the_registry_imports_no_torch() -> None:
    code = "import sys, videozoo.registry; print({'torch', 'timm', 'torchvision', 'av'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
