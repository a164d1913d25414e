"""Names of findings: spellings meet, findings do not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acm_core.vocabulary import FINDINGS, KINDS, REMARKS, canonical, is_device, plain, stated

EVERY_NAME = [(finding, name) for finding, aliases in FINDINGS.items() for name in (finding, *aliases)]


def test_no_name_stands_for_two_findings() -> None:
    assert len({plain(name) for _, name in EVERY_NAME}) == len(EVERY_NAME)


@given(
    st.sampled_from(EVERY_NAME),
    st.sampled_from([" ", "_", "-", "", "  "]),
    st.sampled_from([str.upper, str.lower, str.title, " {} ".format]),
)
def test_every_spelling_is_known(entry: tuple[str, str], blank: str, written: Callable[[str], str]) -> None:
    finding, name = entry
    assert canonical(written(name.replace(" ", blank))) == finding


@pytest.mark.parametrize(
    "names",
    [
        "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
        "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices",  # CheXpert
        "Atelectasis,Cardiomegaly,Effusion,Infiltration,Mass,Nodule,Pneumonia,Pneumothorax,Consolidation,Edema,"
        "Emphysema,Fibrosis,Pleural_Thickening,Hernia,No Finding",  # ChestX-ray14
        "COVID-19,Tuberculosis,normal",
    ],
)
def test_the_public_data_sets_names_are_known_and_differ(names: str) -> None:
    known = [canonical(name) for name in names.split(",")]
    assert None not in known
    assert len(set(known)) == len(known)


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("Effusion", "Pleural Effusion"),
        ("Pleural_Thickening", "Pleural Thickening"),
        ("normal", "No Finding"),
        ("Airspace Opacity", "Lung Opacity"),
        ("infiltrates", "Infiltration"),
        ("pulmonary fibrosis", "Fibrosis"),
        ("COVID 19", "COVID-19"),
        ("Quiddity", None),
        ("", None),
    ],
)
def test_aliases(name: str, finding: str | None) -> None:
    assert canonical(name) == finding


@pytest.mark.parametrize(
    "apart",
    [
        ("Infiltration", "Lung Opacity", "Consolidation", "Pneumonia", "Alveolar Pattern"),
        ("Mass", "Nodule", "Lung Lesion", "Nodule/Mass", "pseudonodule"),
        ("Enlarged Cardiomediastinum", "Cardiomegaly", "mediastinal enlargement"),
        ("Pleural Effusion", "Pericardial Effusion", "costophrenic angle blunting"),
        ("Pleural Thickening", "Pleural Other", "pleural plaques"),
        ("Emphysema", "Subcutaneous Emphysema", "COPD signs"),
        ("Fibrosis", "fibrotic band", "interstitial lung disease"),
        ("Tuberculosis", "tuberculosis sequelae"),
        ("COVID-19", "Pneumonia"),
    ],
)
def test_what_radiologists_keep_apart_stays_apart(apart: tuple[str, ...]) -> None:
    for one, other in combinations(apart, 2):
        assert canonical(one) is None or canonical(one) not in stated(other)
        assert canonical(other) is None or canonical(other) not in stated(one)


@pytest.mark.parametrize(
    ("name", "findings"),
    [
        ("Effusion", ("Pleural Effusion",)),
        ("callus rib fracture", ("Rib Fracture", "Fracture")),
        ("Rib_Fracture", ("Rib Fracture", "Fracture")),
        ("hydropneumothorax", ("Pleural Effusion", "Pneumothorax")),
        ("Covid-19 Pneumonia", ("COVID-19", "Pneumonia")),
        ("Fracture", ("Fracture",)),
        ("Quiddity", ()),
    ],
)
def test_a_kind_states_what_it_is_a_kind_of(name: str, findings: tuple[str, ...]) -> None:
    assert stated(name) == findings


def test_kinds_are_of_findings_and_no_aliases() -> None:
    assert set(KINDS) <= set(FINDINGS)
    for finding, kinds in KINDS.items():
        for kind in kinds:
            assert canonical(kind) in (None, kind)
            assert canonical(kind) != finding
            assert finding in stated(kind)


def test_devices() -> None:
    assert all(map(is_device, ("Support Devices", "Pacemaker", "Nasogastric Tube")))
    assert not any(map(is_device, ("No Finding", "Mass", "Quiddity")))


def test_remarks_are_no_findings() -> None:
    assert not any(map(stated, REMARKS))
