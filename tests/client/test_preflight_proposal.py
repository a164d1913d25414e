"""`client.preflight --propose`: from a strange table to a site file that preflight takes."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import write_dicom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from acm_core.config.loading import load_config
from acm_core.config.site import SiteConfig
from acm_core.data.label_file import SEPARATORS, LabelError
from client import preflight
from client.proposal.presets import presets, recognised
from client.proposal.proposal import ProposalError, propose

Found = dict[str, Any]
Run = Callable[..., tuple[int, Found]]

NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
MIMIC = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,Lung Opacity,"
    "No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)
PADCHEST = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
    "MethodProjection,Pediatric,ReportID,Report,MethodLabel,Labels,Localizations,LabelsLocalizationsBySentence"
)
VINDR = (
    "image_id,Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,ILD,"
    "Nodule/Mass,Pleural effusion,COPD,Pneumonia,Tuberculosis,Other diseases,No finding"
)


@dataclass(frozen=True)
class Case:
    """A table of four films of three patients, and what is in it.

    Attributes:
        films: paths, in the films folder.
        findings: finding → positive, negative and not labelled films.
        views, sexes: of the films used.
    """

    columns: str
    rows: tuple[str, ...]
    films: tuple[str, ...]
    patients: int
    findings: dict[str, tuple[int, int, int]]
    views: dict[str, int]
    sexes: dict[str, int]
    folder: str = "films"


CASES = {
    "ChestX-ray14": Case(
        NIH,
        (
            "00000001_000.png,Cardiomegaly|Pleural_Thickening,0,1,58,M,PA,2682,2749,0.143,0.143,",
            "00000001_001.png,No Finding,1,1,59,M,AP,2682,2749,0.143,0.143,",
            "00000002_000.png,Effusion,0,2,81,F,PA,2682,2749,0.143,0.143,",
            "00000003_000.png,Infiltration|Mass,0,3,46,F,PA,2682,2749,0.143,0.143,",
        ),
        tuple(f"images_001/images/0000000{name}.png" for name in ("1_000", "1_001", "2_000", "3_000")),
        3,
        {
            "Cardiomegaly": (1, 3, 0),
            "No Finding": (1, 3, 0),
            "Pleural Effusion": (1, 3, 0),
            "Hernia": (0, 4, 0),
        },
        {"AP": 1, "PA": 3},
        {"F": 2, "M": 2},
    ),
    "CheXpert": Case(
        CHEXPERT,
        (
            "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
            "CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg,Male,87,Frontal,PA,,,-1.0,1.0,,-1.0,,,,,,,,",
            "CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Male,87,Frontal,AP,,,,1.0,,,0.0,,,,1.0,,,",
            "CheXpert-v1.0-small/train/patient00003/study1/view1_frontal.jpg,Male,41,Frontal,AP,,,,,,1.0,,,,0.0,,,,",
        ),
        tuple(
            f"train/patient0000{name}/view1_frontal.jpg"
            for name in ("1/study1", "2/study1", "2/study2", "3/study1")
        ),
        3,
        {
            "Lung Opacity": (2, 0, 2),
            "Cardiomegaly": (0, 0, 4),
            "Pneumothorax": (0, 2, 2),
            "No Finding": (1, 0, 3),
        },
        {"AP": 3, "PA": 1},
        {"F": 1, "M": 3},
        "CheXpert-v1.0-small",
    ),
    "MIMIC-CXR-JPG": Case(
        MIMIC,
        (
            "02aa804e-bde0,10000032,50414267,CHEST (PA AND LAT),PA,3056,2544,21800506,213014.5,,,,,,,,,1.0,,,,,",
            "2a2277a9-b0de,10000032,53189527,CHEST (PORT AP),AP,3056,2544,21800626,165500.3,,,,,,,,1.0,,0.0,,-1.0,,",
            "68b5c4b1-227d,10000764,57375967,CHEST (PA AND LAT),PA,3056,2544,21801005,124440.1,1.0,,,,,,,,,,,,,",
            "8e172b9f-8f56,10000898,50771383,CHEST (PA AND LAT),PA,3056,2544,21880205,120000.1,,0.0,,,,,,,1.0,,,,,",
        ),
        (
            "p10/p10000032/s50414267/02aa804e-bde0.jpg",
            "p10/p10000032/s53189527/2a2277a9-b0de.jpg",
            "p10/p10000764/s57375967/68b5c4b1-227d.jpg",
            "p10/p10000898/s50771383/8e172b9f-8f56.jpg",
        ),
        3,
        {
            "Lung Opacity": (1, 0, 3),
            "No Finding": (2, 0, 2),
            "Pneumonia": (0, 0, 4),
            "Cardiomegaly": (0, 1, 3),
        },
        {"AP": 1, "PA": 3},
        {"unknown": 4},
    ),
    "PadChest": Case(
        PADCHEST,
        (
            "0,216_1.png,0,20140915,2048,839,1930,F,POSTEROANTERIOR,PA,M,No,r1,text,Physician,"
            "\"['pneumonia', 'pleural effusion']\",,",
            "1,216_2.png,0,20140916,2049,839,1930,F,AP,AP_horizontal,M,No,r2,text,Physician,['normal'],,",
            "2,216_3.png,0,20140915,2050,840,1951,M,POSTEROANTERIOR,PA,M,No,r3,text,RNN_model,"
            "\"['laminar atelectasis', 'cardiomegaly']\",,",
            "3,216_4.png,0,20140915,2051,841,1951,M,POSTEROANTERIOR,PA,M,No,r4,text,RNN_model,['unchanged'],,",
        ),
        ("0/216_1.png", "0/216_2.png", "0/216_3.png", "0/216_4.png"),
        3,
        {
            "Pneumonia": (1, 2, 1),
            "No Finding": (1, 2, 1),
            "Atelectasis": (1, 2, 1),
            "Cardiomegaly": (1, 2, 1),
        },
        {"AP": 1, "PA": 3},
        {"F": 2, "M": 2},
    ),
    "VinDr-CXR": Case(
        VINDR,
        (
            "00150343289f317a0ad5629d5b7d9ef9,1,0,0,1,0,0,0,0,0,0,0,0,0,0",
            "002a34c58c5b758217ed1f584ccbcfe9,0,0,0,0,0,0,0,0,1,0,1,0,0,0",
            "004f33259ee4aef671c2b95d54e4be68,0,0,0,0,0,0,0,0,0,0,0,0,0,1",
            "008bdde2af2462e86fd373a445d0f4cd,0,0,0,0,0,0,1,1,0,0,0,0,0,0",
        ),
        tuple(
            f"test/{name}.dicom"
            for name in (
                "00150343289f317a0ad5629d5b7d9ef9",
                "002a34c58c5b758217ed1f584ccbcfe9",
                "004f33259ee4aef671c2b95d54e4be68",
                "008bdde2af2462e86fd373a445d0f4cd",
            )
        ),
        4,
        {
            "Aortic Enlargement": (1, 3, 0),
            "Interstitial Lung Disease": (1, 3, 0),
            "Nodule or Mass": (1, 3, 0),
            "No Finding": (1, 3, 0),
        },
        {"PA": 4},
        {"unknown": 4},
    ),
    "RSNA Pneumonia": Case(
        "patientId,x,y,width,height,Target",
        (
            "0004cfab-14fd,,,,,0",
            "00313ee0-9eaa,,,,,0",
            "00436515-870c,264.0,152.0,213.0,379.0,1",
            "00704310-78a8,,,,,0",
        ),
        tuple(
            f"stage_2_train_images/{name}.dcm"
            for name in ("0004cfab-14fd", "00313ee0-9eaa", "00436515-870c", "00704310-78a8")
        ),
        4,
        {"Lung Opacity": (1, 3, 0)},
        {"PA": 4},
        {"unknown": 4},
    ),
    "RSNA Pneumonia, classes": Case(
        "patientId,class",
        (
            "0004cfab-14fd,No Lung Opacity / Not Normal",
            "00313ee0-9eaa,Normal",
            "00436515-870c,Lung Opacity",
            "0070-78a8,Normal",
        ),
        tuple(f"{name}.dcm" for name in ("0004cfab-14fd", "00313ee0-9eaa", "00436515-870c", "0070-78a8")),
        4,
        {"Lung Opacity": (1, 3, 0), "No Finding": (2, 2, 0)},
        {"PA": 4},
        {"unknown": 4},
    ),
    "Kermany": Case(
        "image",
        (
            "./train/NORMAL/IM-0115-0001.jpeg",
            "./train/PNEUMONIA/person1_bacteria_1.jpeg",
            "./train/PNEUMONIA/person1_bacteria_2.jpeg",
            "./test/NORMAL/NORMAL2-IM-1427-0001.jpeg",
        ),
        (
            "train/NORMAL/IM-0115-0001.jpeg",
            "train/PNEUMONIA/person1_bacteria_1.jpeg",
            "train/PNEUMONIA/person1_bacteria_2.jpeg",
            "test/NORMAL/NORMAL2-IM-1427-0001.jpeg",
        ),
        3,
        {"Pneumonia": (2, 2, 0), "No Finding": (2, 2, 0)},
        {"unknown": 4},
        {"unknown": 4},
    ),
}


def film(path: Path, seed: int) -> None:
    """A film of the kind that its ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 7)).astype(np.uint8)
    grey = Image.fromarray(coarse).resize((120, 140), Image.Resampling.BICUBIC)
    if path.suffix in (".png", ".jpg", ".jpeg"):
        grey.save(path)
    else:
        silent = dict.fromkeys(("PatientName", "PatientID", "PatientBirthDate"))
        path.write_bytes(write_dicom(np.asarray(grey).astype(np.uint16) * 16, BitsStored=12, **silent))


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run preflight of site A with these arguments; its exit code and the JSON that it prints."""

    def look(*arguments: str) -> tuple[int, Found]:
        code = preflight.main(
            ["--site", "A", "--sites", str(tmp_path / "sites"), "--format", "json", *map(str, arguments)]
        )
        found: Found = json.loads(capsys.readouterr().out)
        assert found["exit_code"] == code
        return code, found

    return look


def table(folder: Path, columns: str, rows: tuple[str, ...] | list[str], separator: str = ",") -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join([columns, *rows]).replace(",", separator) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", CASES)
def test_a_public_table_is_recognised_and_its_proposal_passes_preflight(
    tmp_path: Path, run: Run, name: str
) -> None:
    case = CASES[name]
    for seed, path in enumerate(case.films):
        film(tmp_path / case.folder / path, seed)
    labels = table(tmp_path, case.columns, case.rows)
    code, proposed = run("--propose", "--films", tmp_path / case.folder, "--labels", labels)
    assert (code, proposed["preset"], proposed["left"]) == (preflight.OK, name, [])
    code, found = run("--workers", "2")
    assert code == preflight.OK, found
    assert (found["files"]["used"], found["patients"]) == (4, case.patients)
    assert {name: tuple(found["findings"][name].values()) for name in case.findings} == case.findings
    assert found["views"] == case.views
    assert found["sexes"] == case.sexes


def test_every_preset_is_tried_or_says_what_to_do_instead() -> None:
    assert {name for name, preset in presets().items() if preset.instead is None} == set(CASES)


@pytest.mark.parametrize(
    ("columns", "preset"),
    [
        ("subject_id,study_id,Atelectasis,Cardiomegaly,No Finding", "MIMIC-CXR-JPG, labels alone"),
        ("image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max", "VinDr-CXR, boxes"),
    ],
)
def test_a_table_that_cannot_be_used_says_what_to_do_instead(
    tmp_path: Path, run: Run, columns: str, preset: str
) -> None:
    film(tmp_path / "films/1.png", 0)
    labels = table(tmp_path, columns, ["1" + "," * columns.count(",")])
    code, said = run("--propose", "--films", tmp_path / "films", "--labels", labels)
    assert (code, said["error"]) == (preflight.WRONG, f"{preset}: {presets()[preset].instead}")
    assert not (tmp_path / "sites").exists()


def test_a_hospitals_own_table(tmp_path: Path, run: Run) -> None:
    """Semicolons, own names, own words for present and absent, names without endings, a misspelt finding."""
    rows = []
    for index in range(6):
        film(tmp_path / f"films/2019/{index}.png", index)
        rows.append(
            f"{index},{index // 2},{'ja' if index % 2 else 'nein'},{'x' if index >= 4 else index % 2},p.a.,W"
        )
    labels = table(tmp_path, "Datei,Patienten-ID,Pneumonia,Pleural Efusion,Projection,Geschlecht", rows, ";")
    code, proposed = run("--propose", "--films", tmp_path / "films", "--labels", labels)
    assert code == preflight.ACT
    assert proposed["preset"] is None
    first, second, third = proposed["left"]
    assert first == "is the column 'Pleural Efusion' the finding Pleural Effusion?"
    assert second.startswith("1 values of findings have no meaning yet ('x'): write them")
    assert third.startswith("the label file itself: line 6, column 'Pleural Efusion': expected one of")
    path = tmp_path / "sites/A.yaml"
    label_map = load_config(path, SiteConfig).label_map
    assert (label_map.patient, label_map.image, label_map.image_suffix) == ("Patienten-ID", "Datei", ".png")
    assert label_map.columns == {"Pleural Effusion": "Pleural Efusion"}
    assert label_map.positive == ("1", "1.0", "ja")
    assert label_map.negative == ("0", "0.0", "nein")
    text = path.read_text()
    assert "semicolons" in text
    assert "# View is read from Projection, by name" in text
    path.write_text(text.replace("label_map:\n", "label_map:\n  uncertain: [x, '-1']\n"))
    code, found = run("--workers", "2")
    assert found["files"]["used"] == 6, found
    assert found["patients"] == 3
    assert found["findings"]["Pneumonia"] == {"positive": 3, "negative": 3, "not labelled": 0}
    assert found["findings"]["Pleural Effusion"] == {"positive": 2, "negative": 2, "not labelled": 2}


def test_a_text_that_may_name_a_patient_is_not_repeated(tmp_path: Path, run: Run) -> None:
    texts = ("Frau Geheim hat eine", "Geheim", "0", "1")
    for index in range(4):
        film(tmp_path / f"films/{index}.png", index)
    rows = [f"{index}.png,p{index},{text}" for index, text in enumerate(texts)]
    code, proposed = run(
        "--propose", "--films", tmp_path / "films", "--labels", table(tmp_path, "image,pid,Mass", rows)
    )
    assert code == preflight.ACT
    assert proposed["left"][0].startswith("2 values of findings have no meaning yet: write them")
    assert "geheim" not in (json.dumps(proposed) + (tmp_path / "sites/A.yaml").read_text()).casefold()


def test_a_table_without_column_names_is_refused_and_not_repeated(tmp_path: Path, run: Run) -> None:
    for index in range(4):
        film(tmp_path / f"films/{index}.png", index)
    labels = table(tmp_path, "0.png,Geheim Annegret,1", [f"{index}.png,p{index},0" for index in range(1, 4)])
    code, said = run("--propose", "--films", tmp_path / "films", "--labels", labels)
    assert code == preflight.WRONG
    assert "to begin with a line of column names" in said["error"]
    assert "Geheim" not in said["error"]


def test_a_list_of_findings_is_found_and_asked_about(tmp_path: Path, run: Run) -> None:
    rows = []
    for index, names in enumerate(("Pneumonia;Effusion", "normal", "Cardiomegaly", "Pneumonia")):
        film(tmp_path / f"films/{index}.png", index)
        rows.append(f"{index}.png|p{index}|free text {index}|{names}")
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["file|pid|report|diagnoses", *rows]) + "\n")
    code, proposed = run("--propose", "--films", tmp_path / "films", "--labels", path)
    assert code == preflight.ACT
    assert len(proposed["left"]) == 1
    assert "absent where 'diagnoses' does not name it" in proposed["left"][0]
    label_map = load_config(tmp_path / "sites/A.yaml", SiteConfig).label_map
    assert (label_map.list_column, label_map.list_separator) == ("diagnoses", ";")
    assert set(label_map.list_findings) == {"No Finding", "Cardiomegaly", "Pneumonia", "Pleural Effusion"}
    assert run("--workers", "2")[1]["findings"]["Pneumonia"] == {
        "positive": 2,
        "negative": 2,
        "not labelled": 0,
    }


@pytest.mark.parametrize(
    ("name", "pattern", "left"),
    [("patient{}/study1/a.png", r"patient[_-]?\d+", 0), ("scan-{}.png", ".+", 1)],
)
def test_patients_in_the_names_of_films(tmp_path: Path, run: Run, name: str, pattern: str, left: int) -> None:
    names = [name.format(index) for index in range(4)]
    for index, one in enumerate(names):
        film(tmp_path / "films" / one, index)
    labels = table(tmp_path, "path,Pneumonia", [f"{one},{index % 2}" for index, one in enumerate(names)])
    code, proposed = run("--propose", "--films", tmp_path / "films", "--labels", labels)
    assert (code, len(proposed["left"])) == (preflight.ACT if left else preflight.OK, left)
    assert load_config(tmp_path / "sites/A.yaml", SiteConfig).label_map.patient_pattern == pattern
    assert run("--workers", "2")[1]["patients"] == 4


def test_nothing_is_overwritten(tmp_path: Path, run: Run) -> None:
    for index in range(4):
        film(tmp_path / f"films/{index}.png", index)
    labels = table(
        tmp_path, "Akte,MRN,Pneumonia", [f"{index}.png,m{index},{index % 2}" for index in range(4)]
    )
    paths = ("--films", tmp_path / "films", "--labels", labels)
    assert run("--propose", *paths)[0] == preflight.OK
    first = (tmp_path / "sites/A.yaml").read_bytes()
    code, proposed = run("--propose")  # the paths are the site file's
    assert code == preflight.OK
    assert proposed["path"] == str(tmp_path / "sites/A.proposed.yaml")
    second = (tmp_path / "sites/A.proposed.yaml").read_bytes()
    code, said = run("--propose")
    assert code == preflight.WRONG
    assert "move it away" in said["error"]
    assert (tmp_path / "sites/A.yaml").read_bytes() == first
    assert (tmp_path / "sites/A.proposed.yaml").read_bytes() == second
    assert load_config(tmp_path / "sites/A.yaml", SiteConfig) == load_config(
        tmp_path / "sites/A.proposed.yaml", SiteConfig
    )


def test_films_that_are_refused_are_told_with_what_would_take_them(tmp_path: Path, run: Run) -> None:
    for index in range(4):
        stored = np.random.default_rng(index).integers(0, 4096, (40, 50)).astype(np.uint16)
        part = "RAUM 7" if index else "CHEST"
        (tmp_path / "films").mkdir(exist_ok=True)
        (tmp_path / f"films/{index}.dcm").write_bytes(
            write_dicom(stored, BitsStored=12, BodyPartExamined=part)
        )
    labels = table(tmp_path, "image,patient,Pneumonia", [f"{index}.dcm,p{index},1" for index in range(4)])
    code, proposed = run("--propose", "--films", tmp_path / "films", "--labels", labels)
    assert (code, proposed["left"]) == (
        preflight.ACT,
        ["3 of 4 films that were read are set aside; see the file"],
    )
    text = (tmp_path / "sites/A.yaml").read_text()
    assert "# 3 set aside: body part RAUM 7" in text
    assert "accept: {body_part: [RAUM 7]}" in text


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("no paths", "expected --films, a folder, and --labels beside --propose"),
        ("no films", "expected a folder of films"),
        ("no labels", "(echo image; cd"),
        ("no table", "expected a table with a line of column names"),
        ("other films", "is this the folder of the films?"),
    ],
)
def test_what_is_missing_is_said_and_nothing_is_written(
    tmp_path: Path, run: Run, what: str, text: str
) -> None:
    film(tmp_path / "films/train/NORMAL/1.jpeg", 0)
    film(tmp_path / "films/train/PNEUMONIA/2.jpeg", 1)
    labels = table(tmp_path, "image,patient,Pneumonia", ["a.png,p1,1", "b.png,p2,0"])
    films = tmp_path / "films"
    if what == "no films":
        films = tmp_path / "elsewhere"
    elif what == "no labels":
        labels.unlink()
    elif what == "no table":
        labels.write_text("")
    paths = () if what == "no paths" else ("--films", films, "--labels", labels)
    code, said = run("--propose", *paths)
    assert code == preflight.WRONG
    assert text in said["error"]
    assert not (tmp_path / "sites").exists()


NAMES = st.one_of(
    st.sampled_from(
        ["image", "patient", "Pneumonia", "Mass", "view", "sex", "Path", "", " age ", "Pleural Efusion"]
    ),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
)
CELLS = st.one_of(
    st.sampled_from(
        ["0.png", "1.png", "0", "1", "films/1.png", "yes", "-1", "", "Pneumonia|Mass", "['normal']", "p1"]
    ),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
)


@given(
    columns=st.lists(NAMES, min_size=1, max_size=6),
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=6), max_size=5),
    separator=st.sampled_from(SEPARATORS),
    encoding=st.sampled_from(["utf-8", "utf-16", "cp1252"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_table_nothing_is_written_or_a_site_file_that_can_be_read(
    tmp_path: Path, columns: list[str], rows: list[list[str]], separator: str, encoding: str
) -> None:
    for index in range(2):
        if not (tmp_path / f"films/{index}.png").exists():
            film(tmp_path / f"films/{index}.png", index)
    shutil.rmtree(tmp_path / "sites", ignore_errors=True)
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows([columns, *rows])
    labels = tmp_path / "table.csv"
    labels.write_bytes(text.getvalue().encode(encoding, "replace"))
    try:
        proposal = propose(tmp_path / "sites", "A", tmp_path / "films", labels)
    except (ProposalError, LabelError):
        assert not (tmp_path / "sites").exists()
    else:
        assert load_config(proposal.path, SiteConfig).labels == labels


def test_a_table_is_the_preset_of_which_it_has_most_columns() -> None:
    assert recognised(["patientId", "x", "y", "width", "height", "Target", "class"], {}) == "RSNA Pneumonia"
    assert recognised(["image"], {"image": ["train/NORMAL/a.jpeg", "train/PNEUMONIA/b.jpeg"]}) == "Kermany"
    assert recognised(["image"], {"image": ["train/NORMAL/a.jpeg", "c.jpeg"]}) is None
    assert recognised(["image", "patient_id", "Pneumonia"], {"image": ["a/NORMAL/1.png"]}) is None
