"""One vocabulary of chest findings, with the names that public data sets give them.

An alias is a true synonym, nothing else. What a radiologist would not exchange stays apart, however near it sounds; the
comments say where one would be tempted. A name for one kind of a finding (a rib fracture is a fracture) is no alias
either: it states the finding, but its absence does not deny it.
"""

from __future__ import annotations

from functools import cache

NO_FINDING = "No Finding"
SUPPORT_DEVICES = "Support Devices"

FINDINGS: dict[str, tuple[str, ...]] = {
    # CheXpert
    NO_FINDING: ("normal", "no findings", "no abnormality"),
    "Enlarged Cardiomediastinum": (),  # neither Cardiomegaly nor Mediastinal Enlargement, each of which is one part
    "Cardiomegaly": ("enlarged heart",),
    "Lung Opacity": ("airspace opacity",),  # neither Infiltration, Consolidation nor Pneumonia
    "Lung Lesion": (),  # neither Mass nor Nodule: those are by size, this is both and more
    "Edema": ("oedema", "pulmonary edema", "pulmonary oedema"),
    "Consolidation": (),  # what is seen; Pneumonia is one cause of it
    "Pneumonia": (),
    "Atelectasis": ("atelectases",),
    "Pneumothorax": (),
    "Pleural Effusion": ("effusion", "pleural effusions"),  # not pericardial
    "Pleural Other": (),  # not Pleural Thickening
    "Fracture": ("bone fracture", "fractures"),
    SUPPORT_DEVICES: ("support device",),
    # ChestX-ray14
    "Infiltration": ("infiltrate", "infiltrates"),
    "Mass": (),
    "Nodule": (),
    "Emphysema": ("pulmonary emphysema",),  # neither COPD Signs nor Subcutaneous Emphysema
    "Fibrosis": ("pulmonary fibrosis", "lung fibrosis"),  # not Fibrotic Band
    "Pleural Thickening": (),
    "Hernia": (),
    # PadChest
    "Adenopathy": (),
    "Air Trapping": (),
    "Alveolar Pattern": (),  # neither Consolidation nor Lung Opacity
    "Aortic Atheromatosis": ("aortic atherosclerosis",),
    "Aortic Elongation": (),
    "Bronchiectasis": (),
    "Bulla": ("bullas", "bullae"),
    "Calcified Granuloma": (),
    "Central Venous Catheter": (),
    "Chest Drain": ("chest drain tube", "chest tube"),
    "COPD Signs": (),
    "Costophrenic Angle Blunting": (
        "blunted costophrenic angle",
    ),  # not Pleural Effusion: scars blunt it too
    "Endotracheal Tube": (),
    "Fibrotic Band": (),
    "Flattened Diaphragm": (),
    "Granuloma": (),
    "Ground Glass Pattern": (),
    "Hemidiaphragm Elevation": ("elevated hemidiaphragm",),
    "Hiatal Hernia": ("hiatus hernia",),
    "Hilar Congestion": (),
    "Hilar Enlargement": (),
    "Hyperinflated Lung": (),
    "Interstitial Pattern": (),
    "Kyphosis": (),
    "Mediastinal Enlargement": ("mediastinal widening", "widened mediastinum"),
    "Nasogastric Tube": ("NSG tube", "NG tube"),
    "Pacemaker": (),
    "Pericardial Effusion": (),
    "Pneumomediastinum": (),
    "Pneumoperitoneum": ("pneumoperitoneo",),
    "Pulmonary Mass": ("lung mass",),
    "Pulmonary Nodule": ("lung nodule",),
    "Rib Fracture": (),
    "Scoliosis": (),
    "Subcutaneous Emphysema": (),
    "Tuberculosis Sequelae": (),  # scars of what was once Tuberculosis
    "Vascular Redistribution": (),
    "Vertebral Degenerative Changes": (),
    "Volume Loss": (),  # not Atelectasis: surgery leaves it too
    # VinDr-CXR and others
    "Aortic Enlargement": (),
    "COVID-19": ("covid", "coronavirus disease 2019"),  # the disease, which need not show as Pneumonia
    "Interstitial Lung Disease": ("ILD",),
    "Nodule or Mass": ("nodule/mass",),  # which of the two it does not say
    "Tuberculosis": ("TB",),
}
"""Canonical name → aliases."""

KINDS: dict[str, tuple[str, ...]] = {
    "Aortic Elongation": ("ascendent aortic elongation", "descendent aortic elongation"),
    "Atelectasis": (
        "atelectasis basal",
        "laminar atelectasis",
        "lobar atelectasis",
        "round atelectasis",
        "segmental atelectasis",
        "total atelectasis",
    ),
    "Central Venous Catheter": (
        "central venous catheter via jugular vein",
        "central venous catheter via subclavian vein",
        "central venous catheter via umbilical vein",
        "reservoir central venous catheter",
    ),
    "COVID-19": ("covid-19 pneumonia",),
    "Fracture": ("clavicle fracture", "humeral fracture", "Rib Fracture", "vertebral fracture"),
    "Granuloma": ("Calcified Granuloma",),
    "Hernia": ("Hiatal Hernia",),
    "Hilar Enlargement": ("vascular hilar enlargement",),
    "Interstitial Pattern": ("reticular interstitial pattern", "reticulonodular interstitial pattern"),
    "Mass": ("Pulmonary Mass",),
    "Mediastinal Enlargement": ("superior mediastinal enlargement",),
    "Nodule": ("multiple nodules", "Pulmonary Nodule"),  # not pseudonodule
    "Pacemaker": ("dual chamber device", "single chamber device"),
    "Pleural Effusion": (
        "empyema",
        "hydropneumothorax",
        "loculated fissural effusion",
        "loculated pleural effusion",
    ),
    "Pleural Thickening": ("apical pleural thickening", "calcified pleural thickening"),
    "Pneumonia": (
        "aspiration pneumonia",
        "atypical pneumonia",
        "bacterial pneumonia",
        "bronchopneumonia",
        "covid-19 pneumonia",
        "lobar pneumonia",
        "viral pneumonia",
    ),
    "Pneumothorax": ("hydropneumothorax",),
    "Rib Fracture": ("callus rib fracture",),
    SUPPORT_DEVICES: (
        "Central Venous Catheter",
        "Chest Drain",
        "electrical device",
        "Endotracheal Tube",
        "Nasogastric Tube",
        "Pacemaker",
        "tracheostomy tube",
    ),
    "Tuberculosis": ("pulmonary tuberculosis",),
    "Vascular Redistribution": ("central vascular redistribution",),
}
"""Canonical name → names of kinds of it: PadChest and others list the kind alone, and mean the finding with it."""

REMARKS = ("exclude", "suboptimal study", "unchanged")
"""What PadChest lists beside findings: what such a list does not name may still be there."""


def plain(name: str) -> str:
    """The letters and digits of a name without case: what spellings of one name share."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def canonical(name: str) -> str | None:
    """The vocabulary's name for `name`, or None where it has none; case, blanks, `_` and `-` do not matter."""
    return _names().get(plain(name))


def stated(name: str) -> tuple[str, ...]:
    """The findings that a film has if it has `name`: itself and what it is a kind of; none if the name is unknown."""
    return _stated().get(plain(name), ())


def is_device(finding: str) -> bool:
    """Whether the finding is something put into the patient, which may stand beside No Finding."""
    return SUPPORT_DEVICES in stated(finding)


@cache
def _names() -> dict[str, str]:
    return {plain(name): finding for finding, aliases in FINDINGS.items() for name in (finding, *aliases)}


@cache
def _stated() -> dict[str, tuple[str, ...]]:
    names = _names()
    wider: dict[str, list[str]] = {}
    for finding, kinds in KINDS.items():
        for kind in kinds:
            wider.setdefault(plain(kind), []).append(finding)

    def widened(name: str) -> list[str]:
        return [one for finding in wider.get(plain(name), ()) for one in (finding, *widened(finding))]

    return {
        **{kind: tuple(dict.fromkeys(widened(kind))) for kind in wider},
        **{name: tuple(dict.fromkeys((finding, *widened(finding)))) for name, finding in names.items()},
    }
