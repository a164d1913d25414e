"""The sections of a site's file, validated when built; descriptions give units."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, field_validator, model_validator

from acm_core.config.archive import Archive
from acm_core.config.section import Section
from acm_core.config.sections import Architecture, Delta, PrivacyUnit, SiteName

ImageIs = Literal["path", "instance", "series", "study", "accession"]
About = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,300}$")]
"""One line of a site's own words about its films."""


class LabelMap(Section):
    """How the site's label file says what the vocabulary says: its column names and its values."""

    patient: str = Field("patient_id", description="column of the hospital's patient id")
    patient_pattern: str | None = Field(
        None,
        description="regular expression for the patient within that column's text, such as patient\\d+ in CheXpert's "
        "Path; its first group if it has one; default: the whole text",
    )
    image: str = Field(
        "image", description="column of the film: path in the films folder, or file name alone"
    )
    image_is: ImageIs = Field(
        "path",
        description="what that column holds: path, or what DICOM headers have: instance (SOP Instance UID), series or "
        "study (their Instance UID), accession (Accession Number); a row of the last three stands for each of its "
        "frontal films",
    )
    image_suffix: str = Field(
        "",
        description="ending that the names in that column lack, such as .png; a name with its ending stays as it is",
    )
    view: str | None = Field(
        None,
        description="column of the view, for films whose header is silent; null: the one that is called so, such as "
        "ViewPosition; empty: none",
    )
    sex: str | None = Field(None, description="column of the patient's sex, as view")
    age: str | None = Field(None, description="column of the age in years, as view")
    columns: dict[str, str | None] = Field(
        default_factory=dict,
        description="finding → its column, where the name is no alias of the finding; null: a column of that name is "
        "something else",
    )
    positive: tuple[str, ...] = Field(("1", "1.0"), description="values for present")
    negative: tuple[str, ...] = Field(("0", "0.0"), description="values for absent")
    uncertain: tuple[str, ...] = Field(("-1", "-1.0"), description="values for uncertain")
    not_labelled: tuple[str, ...] = Field(("",), description="values for nobody looked, which is not absent")
    uncertain_policy: Literal["ignore", "positive", "negative"] = Field(
        "ignore", description="what an uncertain label counts as; ignore: not labelled"
    )
    list_column: str | None = Field(
        None, description="one column that lists the findings present, instead of a column a finding"
    )
    list_separator: str = Field("|", min_length=1, description="between the names of the list")
    list_findings: tuple[str, ...] = Field(
        (), description="findings that the list would name if present: absent where it does not"
    )
    list_names: dict[str, str] = Field(
        default_factory=dict, description="name in the list → finding, where the vocabulary does not know it"
    )

    @field_validator("patient_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"expected a regular expression, got {pattern}: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _consistent(self) -> LabelMap:
        values = [
            value
            for kind in (self.positive, self.negative, self.uncertain, self.not_labelled)
            for value in {value.strip().casefold() for value in kind}
        ]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"expected each value in one list, got in two: {', '.join(map(repr, twice))}")
        if bool(self.list_column) != bool(self.list_findings):
            raise ValueError("expected list_column and list_findings together, or neither")
        if self.image_suffix and self.image_is != "path":
            raise ValueError(
                f"expected image_suffix beside image_is: path only, got image_is: {self.image_is}"
            )
        if self.list_names and not self.list_column:
            raise ValueError("expected list_column beside list_names")
        if self.patient == self.image and self.patient_pattern is None:
            raise ValueError(
                f"expected patient_pattern where patient and image are one column ({self.image}): the part of it that "
                "names the patient, or .+ if each film is another patient's"
            )
        return self


Release = Literal["withheld", "coarsened", "exact"]


class SitePrivacy(Section):
    """What a site permits to be learnt about its patients, and what it has decided to be public about itself."""

    required: bool = Field(
        True,
        description="refuse runs without differential privacy, in which counts and metrics below say nothing",
    )
    unit: PrivacyUnit = Field("patient", description="patient: refuse runs that protect single films only")
    epsilon: float = Field(
        gt=0,
        description="ε that all runs together may ever cost a patient, by training on their films or by noised figures "
        "of them as a test patient; the ledger counts both",
    )
    delta: Delta = Field(1e-5, description="δ at which the ledger's ε is computed")
    population: int = Field(
        ge=1,
        description="training units (about 70 % of the patients), a round number that may be known outside: the "
        "sampling rate is expected_batch / population, and the site's weight in the average is population",
    )
    labelled: tuple[str, ...] | None = Field(
        None,
        description="findings that the site's films are labelled for, as may be known outside; null: all",
    )
    counts: Release = Field(
        "withheld", description="numbers of films and patients in reports; coarsened: in steps of 50"
    )
    metrics: Literal["withheld", "coarsened", "noised", "exact"] = Field(
        "withheld",
        description="AUROC on the site's test patients in reports; coarsened: two digits, not private; noised: from "
        "histograms with noise, at metrics_epsilon a run",
    )
    metrics_epsilon: float = Field(
        1.0, gt=0, description="ε that noised metrics of one run cost a test patient"
    )
    witness: Path | None = Field(
        None,
        description="file on another disk that also says where the ledger ends, so that a restored backup is noticed; "
        "beside a ledger that is older, client.privacy --begin-witness writes it",
    )


_FROM_TO = r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$"


class SitePolicy(Section):
    """Which runs a site takes part in; a run that a line does not permit is refused by that line's name."""

    findings: tuple[str, ...] | None = Field(None, description="findings that may be trained for; null: all")
    architectures: tuple[Architecture, ...] | None = Field(
        None, description="models that may be trained; null: all"
    )
    image_size: int | None = Field(
        None, ge=32, description="largest side of the square film in pixels; null: any"
    )
    rounds: int | None = Field(None, ge=1, description="rounds that a run may have; null: any number")
    epochs: int | None = Field(None, ge=1, description="local epochs that a round may have; null: any number")
    batch_size: int | None = Field(
        None, ge=1, description="films that a step may have, or with privacy hold at once; null: any number"
    )
    learning_rate: float | None = Field(None, gt=0, description="largest learning rate; null: any")
    augmentations: int | None = Field(
        None, ge=1, description="views of a film that a private step may average over; null: any number"
    )
    minimum_sites: int = Field(
        1,
        ge=1,
        description="sites whose updates have to be in every average of what all findings share: federation.quorum is "
        "not below; a finding's own row is averaged over the sites that label it, which may be one",
    )
    hours: Annotated[str, StringConstraints(pattern=_FROM_TO)] | None = Field(
        None,
        description="from when to when the site works for the federation, such as 19:00-07:00; null: always",
    )
    smallest_group: int = Field(
        10,
        ge=1,
        description="patients with a finding, and without it, below which a figure of a group (sex, age band, view) is "
        "withheld",
    )


class SplitShares(Section):
    """How a site's patients are parted; another choice parts them anew, so that films trained on may be tested on."""

    validation: float = Field(0.1, ge=0, lt=1, description="share of the patients to validate on")
    test: float = Field(0.2, ge=0, lt=1, description="share of the patients to test on")

    @model_validator(mode="after")
    def _leave_some(self) -> SplitShares:
        if not self.validation + self.test < 1:
            raise ValueError(
                f"expected shares together below 1, got validation {self.validation} and test {self.test}: patients to "
                "train on have to be left"
            )
        return self


class Accept(Section):
    """Words of a site's own that preflight would refuse films for; capitals and accents do not matter."""

    body_part: tuple[str, ...] = Field((), description="what the header calls the chest")
    modality: tuple[str, ...] = Field((), description="what the header calls a radiograph")
    view: dict[str, Literal["AP", "PA", "frontal"]] = Field(
        default_factory=dict,
        description="what header or label file call a view → AP, PA, or frontal where neither is known",
    )


def _where(films: object) -> str:
    return "archive" if isinstance(films, Archive | Mapping) else "folder"


Films = Annotated[Annotated[Path, Tag("folder")] | Annotated[Archive, Tag("archive")], Discriminator(_where)]


class SiteConfig(Section):
    """A site's own file: paths and what the site does with its films. The file never leaves the site."""

    site: SiteName = Field(description="the site's name, which the file is named after")
    films: Films = Field(
        description="folder of the films, at any depth; or an archive that is asked for them, see films.dicomweb"
    )
    labels: Path = Field(description="CSV with a row a film; label_map says how it is read")
    state: Path = Field(
        description="folder for the salt, manifest, prepared films and models that stay at the site"
    )
    about: About | None = Field(
        None,
        description="which films, whose labels, what years, in a line that leaves the site and stands in model cards: "
        "PA and AP films of 2016 to 2019, labels by two radiologists",
    )
    label_map: LabelMap = LabelMap()
    accept: Accept = Accept()
    unknown_view: Literal["keep", "set_aside"] = Field(
        "keep", description="films of which neither header nor label file says whether they are AP or PA"
    )
    splits: SplitShares = SplitShares()
    policy: SitePolicy = SitePolicy()
    privacy: SitePrivacy | None = Field(
        None,
        description="what the site permits and publishes; null: it takes part in runs without privacy only",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    threads: int | None = Field(None, ge=1, description="CPU threads for training; default: all cores")
    workers: int = Field(
        0, ge=0, description="processes that make batches ahead of training; 0: made in between"
    )

    @model_validator(mode="after")
    def _listed_by_name(self) -> SiteConfig:
        if isinstance(self.films, Archive) and self.films.query.listed and self.label_map.image_is == "path":
            raise ValueError(
                "expected label_map: image_is as accession, study, series or instance where films: query: listed is "
                "true, got path"
            )
        return self
