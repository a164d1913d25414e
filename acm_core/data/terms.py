"""How hospitals say body part, modality and view, in words and codes: one table for header and label file.

Words are compared in capitals without accents. A word that stands for a blank ("UNKNOWN") is no statement.

Codes are SNOMED CT, its older forms (SRT, SNM3) and RadLex. Each stands in one of these sources:

- PS3.16 CID 4, 4009, 4010 and 4031, and the SRT codes that it retired, as pydicom has them (`pydicom.sr`).
- HL7 mCODE (entire thorax, entire lung) and IHE mPSC (right and left lung) for SNOMED CT that PS3.16 lacks.
- HL7 Switzerland's CH RAD-Order (thorax, lung) and Stanford's ePAD (right and left lung) for RadLex.
- dcm4ceph, a library of 2006, for R-10214, postero-anterior, which later editions write R-40888.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from acm_core.config.site import Accept


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CHEST_CODES = frozenset(
    (
        *("816094009", "51185008", "T-D3000"),  # chest: now, before 2019, SRT
        *("302551006", "RID1243"),  # entire thorax; RadLex
        *("39607008", "T-28000", "181216001", "RID1301"),  # lung, entire lung
        *("3341006", "44029006", "RID1302", "RID1326"),  # right and left lung
        *("416550000", "R-FAB55", "416775004", "R-FAB56"),  # with the abdomen, with abdomen and pelvis
        *("417437006", "R-FAB52", "416152001", "R-FAB53", "416319003", "R-FAB54"),  # with the neck and more
        *("43799004", "T-D3200"),  # thoracic cavity
    )
)

VIEW_CODES: Mapping[str, str] = {
    **dict.fromkeys(("399348003", "R-10206"), "AP"),
    **dict.fromkeys(("272479007", "R-10214", "R-40888"), "PA"),
    **dict.fromkeys(("399067008", "R-102CD", "399173006", "R-10236", "399198007", "R-10232"), "LATERAL"),
    **dict.fromkeys(("399260004", "R-10224", "399352003", "R-10228", "30730003", "G-A145"), "LATERAL"),
    **dict.fromkeys(("399182000", "R-102C1", "260427002", "R-40783", "399160007", "R-10204"), "OBLIQUE"),
    **dict.fromkeys(("399135007", "R-10220", "399356000", "R-40985", "399006002", "R-10212"), "OBLIQUE"),
    **dict.fromkeys(("399038007", "R-10210", "399184004", "R-10238", "399236003", "R-10234"), "OBLIQUE"),
    **dict.fromkeys(("399312000", "R-10208", "399059000", "R-10216"), "OBLIQUE"),
    **dict.fromkeys(("399162004", "R-10242", "399196006", "R-10244"), "AXIAL"),
}
"""PS3.16 CID 4010 DX View; "frontal" is not among them: it does not say from which side."""

_PLACEHOLDERS = _words(
    """
    UNKNOWN UNK UNDEFINED UNDEF UNSPECIFIED NOTSPECIFIED NOTDEFINED NOTAVAILABLE NOTAPPLICABLE NA NAN NAP NONE
    NULL NIL EMPTY BLANK DEFAULT ANY X XX XXX XXXX TBD ANON ANONYMOUS ANONYMIZED ANONYMISED DEIDENTIFIED REMOVED
    DELETED REDACTED NOVALUE NODATA MISSING UNBEKANNT KEINEANGABE KA OHNE LEER INCONNU INCONNUE NONPRECISE
    NONSPECIFIE AUCUN AUCUNE SCONOSCIUTO SCONOSCIUTA NONSPECIFICATO NONNOTO DESCONOCIDO DESCONOCIDA NOESPECIFICADO
    SINESPECIFICAR NINGUNO DESCONHECIDO DESCONHECIDA NAOESPECIFICADO NENHUM ONBEKEND GEEN NIEZNANY NIEZNANA
    NIEZNANE BRAK NEZNAMY NEZNAMA NEZNAME NEUVEDENO ISMERETLEN NINCS OKAND OKANT UKJENT UKENDT TUNTEMATON OTHEKKT
    UNKOWN UNKNOW
    """
)

_NOUNS = re.compile(
    r"CHEST|CXR|THORA(?!C)|TORAX|TORAKS|TORACE|TORACA(?![A-Z])|BRUSTKORB|BRUSTKASTEN|POITRINE|POUMON|POLMON|PULMO|PULMAO|"
    r"HRUDNIK|MELLKAS(?!I)|BROSTKORG|BRYSTKASS|BRJOSTKASS|BRJOSTHOL|RINTAKEHA|KEUHKO|BORSTKAS|KLATK[AIEO]|AKCIGER|"
    r"(?<![A-Z])(?:LUNG|LONGEN|PLUC|PLIC[EI]|THX(?![A-Z]))|"
    r"(?<![A-Z])(?:BRUST|BORST|PEITO|PECHO|PETTO|BRYST|BROST|HRUD|TUDO|RINTA|GOGUS|TORSO|TORS)(?![A-Z])|"
    "胸|흉|ГРУДН|ЛЕГК|ΘΩΡΑΚ"
)
"""Chest and lung; words that are also parts of other words stand by themselves (Brust, but not Brustbein)."""
_ADJECTIVES = re.compile(r"THORAC|TORACIC|TORACIQ|PIERSIOW|HRUDNI(?!K)|MELLKASI")
_SPINE = re.compile(
    r"SPIN|LUMB|LOMB|WIRBEL|WERVEL|(?<![A-Z])[BHL]WS(?![A-Z])|RACHI[SD]|COLONN|COLUMN|COLUNA|VERTEBR|KREGOSLUP|PATER|"
    r"GERINC|RYGGRAD|SELKARANKA|SACR|STERN|RIB|COSTA"
)

_RADIOGRAPHS = _words(
    """
    CR DX RG DR XR RX RTG RAD XRAY CXR RADIOGRAPHY RADIOGRAPH RONTGEN RADIOGRAFIA
    """
)
_OTHER_MODALITIES = _words(
    """
    AR ASMT AU BDUS BI BMD CT CFM DG DMS DOC DS EC ECG EEG EMG EOG EPS ES FA FID FS GM HC HD IO IOL IVOCT IVUS KER
    KO LEN LP LS M3D MA MG MR MS NM OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV OSS PLAN POS PR PT PX REG RESP RF
    RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF ST STAIN TEXTUREMAP TG
    US VA VF XA XC XAPROTOCOL MRI PET CBCT DXA MAMMO ANGIO FLUORO ULTRASOUND
    """
)
_RADIOGRAPH_CLASSES = frozenset(
    ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1.1")
)
"""CR, and DX for presentation and for processing (PS3.4 B.5)."""

_AP = re.compile(
    r"ANTEROPOSTERI|ANTERIORPOSTERIOR|PRZEDNIOTYLN|PREDOZADN|ETUTAKA|VENTRODORS|VOORACHTERWAARTS"
)
_PA = re.compile(
    r"POSTEROANTERI|POSTERI?ORANTERIOR|TYLNOPRZEDN|ZADOPREDN|TAKAETU|DORSOVENTR|ACHTERVOORWAARTS"
)
_SPELT_OUT = re.compile(r"(?<![A-Z])([AP])[ ._/-]{1,2}([AP])(?![A-Z])")
_LATERAL = re.compile(
    r"LAT|LATERA[A-Z]*|[LR]LAT|LL|RL|[XLR]?TABLE|SWIM[A-Z]*|PROFIL[A-Z]*|PERFIL|SEIT[A-Z]*|ZIJ[A-Z]*|DWARS[A-Z]*|"
    r"BOCZN[A-Z]*|BOCNI|BOCNA|BOKU|OLDAL[A-Z]*|SIVU[A-Z]*|SID[AO][A-Z]*"
)
_NOT_FRONTAL = re.compile(
    rf"L|R|{_LATERAL.pattern}|[LR]LO|[LR]AO|[LR]PO|OBL[A-Z]*|SCHRAG[A-Z]*|SKOSN[A-Z]*|SIKM[A-Z]*|FERDE|SNED|SKRA|VINO|"
    r"[LR]LD|DECUB[A-Z]*"
)
"""Terms of View Position (PS3.3 C.8.1.2, C.8.11.5) and their usual spellings. A decubitus film is projected frontally,
but lies on its side and shows fluid elsewhere than an upright one."""
_ON_BACK_OR_FRONT = re.compile(r"SUPIN[A-Z]*|PRON[A-Z]*|DORSAL[A-Z]*|VENTRAL[A-Z]*")
_NO_DIRECTION = _words(
    """
    FRONTAL FRONTALE FRONT FACE DE ERECT UPRIGHT STANDING SITTING SITZEND STEHEND LIEGEND SUPINE PRONE LYING
    PORTABLE MOBILE BEDSIDE BED VIEW VIEWS PROJECTION IMAGE FILM SINGLE DEBOUT COUCHE ASSIS ORTOSTATISMO DEITADO
    BIPEDESTACION INSPIRATION EXPIRATION INSP EXP ROUTINE ADULT PAED PEDIATRIC STANDARD
    """
)
"""How the patient stood or lay, or that the film is frontal: not from which side it was taken."""


@dataclass(frozen=True)
class Accepted:
    """What a site says of its own words, see `accept` of its file; in capitals without accents.

    Attributes:
        views: word → "AP", "PA" or "FRONTAL".
    """

    body_parts: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    views: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, accept: Accept) -> Accepted:
        """Of a site's file."""
        return cls(
            tuple(map(folded, accept.body_part)),
            tuple(map(folded, accept.modality)),
            tuple((folded(word), view.upper()) for word, view in accept.view.items()),
        )


NOTHING = Accepted()


def folded(text: str) -> str:
    """Capitals without accents, blanks single: "Röntgen Thorax" → "RONTGEN THORAX"."""
    if text.isascii():
        return " ".join(text.upper().split())
    text = text.upper().translate(
        {ord("Ł"): "L", ord("Ø"): "O", ord("Æ"): "AE", ord("Đ"): "D", ord("ı"): "I"}
    )
    plain = "".join(
        letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter)
    )
    return " ".join(unicodedata.normalize("NFC", plain).split())


def says_nothing(text: str) -> bool:
    """Whether a text is blank or stands for a blank."""
    letters = "".join(filter(str.isalnum, folded(text)))
    return not letters.strip("0") or letters in _PLACEHOLDERS


def is_chest(text: str, accepted: Accepted = NOTHING) -> bool | None:
    """Whether a text names the chest; None where it says nothing."""
    spelt = folded(text)
    if spelt in accepted.body_parts or spelt in CHEST_CODES:
        return True
    if says_nothing(spelt):
        return None
    return bool(_NOUNS.search(spelt) or (_ADJECTIVES.search(spelt) and not _SPINE.search(spelt)))


def is_radiograph(modality: str, sop_class: str, accepted: Accepted = NOTHING) -> bool:
    """Whether an image is a projection radiograph by its Modality, or by its SOP class where that is odd or absent."""
    spelt = folded(modality)
    words = set(re.findall(r"[A-Z0-9]+", spelt.replace("-", "")))
    if spelt in accepted.modalities or (words and words <= _RADIOGRAPHS):
        return True
    return words.isdisjoint(_OTHER_MODALITIES) and sop_class in _RADIOGRAPH_CLASSES


def named_view(text: str, accepted: Accepted = NOTHING) -> str | None:
    """ "AP", "PA", another view in capitals, or None where a text does not say from which side a film was taken."""
    spelt = folded(text)
    if (view := dict(accepted.views).get(spelt)) is not None:
        return None if view == "FRONTAL" else view
    if spelt in VIEW_CODES:
        return VIEW_CODES[spelt]
    words = re.findall("[A-Z]+", _SPELT_OUT.sub(r"\1\2", spelt))
    joined = "".join(words)
    if is_side_view(words):
        return " ".join(words)
    frontal = {"AP", "PA"} & set(words)
    frontal |= {view for view, pattern in (("AP", _AP), ("PA", _PA)) if pattern.search(joined)}
    if frontal:
        return frontal.pop() if len(frontal) == 1 else None
    if says_nothing(joined) or not _PLACEHOLDERS.isdisjoint(words):
        return None
    return None if all(word in _NO_DIRECTION or _NOUNS.search(word) for word in words) else " ".join(words)


def is_side_view(words: list[str], which: Literal["any", "lateral"] = "any") -> bool:
    """Whether words in capitals name a view that is not frontal; "lateral": one from the side."""
    pattern = _NOT_FRONTAL if which == "any" else _LATERAL
    found = [word for word in words if pattern.fullmatch(word)]
    lying = any(_ON_BACK_OR_FRONT.fullmatch(word) for word in words)
    return any(not (lying and word.startswith("DECUB")) for word in found)
