"""`python tests/support/written_round.py`: writes a site's part in one small round, for the tests of the joint sum."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from acm_core.arrays import Arrays, fingerprint
from acm_core.federated.update import SiteUpdate
from acm_core.secure_aggregation.fixed_point import Layout
from acm_core.secure_aggregation.masks import add_masks
from acm_core.secure_aggregation.promise import Promise, Subject
from acm_core.secure_aggregation.round_secrets import RoundSecrets
from acm_core.secure_aggregation.sum_list import SumList

SITES = ("A", "B", "C")
FINDINGS = ("Nodule", "Effusion")
FILE = Path(__file__).parents[1] / "acm_core" / "secure_aggregation" / "vectors" / "round.json"
ROWS = ("head.weight", "head.bias")
MODEL: Arrays = {
    "conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 8,
    "norm.running_var": np.array([1e-6, 40.0], np.float32),
    "norm.num_batches_tracked": np.array(17),
    "head.weight": np.array([[0.5, -0.25], [3.0, 0.0]], np.float32),
    "head.bias": np.zeros(2, np.float32),
}
SUBJECT = Subject(
    federation="chest", run="demo", round=7, model=fingerprint(MODEL), config="c" * 64, roster="d" * 64
)
SECRETS = {
    site: RoundSecrets(*(hashlib.sha256(f"{site} {part}".encode()).digest() for part in ("key", "root")))
    for site in SITES
}


def update(site: str) -> SiteUpdate:
    """Whole steps, and a third of one, which the grid rounds."""
    step = 1 + SITES.index(site)
    arrays = {
        name: np.asarray(array + array.dtype.type(step + (array.dtype.kind == "f") / 3), array.dtype)
        for name, array in MODEL.items()
    }
    return SiteUpdate(
        site, arrays, 100 * step, (60 * step, 9 if step == 1 else 0), {"train_loss": 0.25 * step}
    )


def promises() -> SumList:
    """Signed by keys that are made anew: signatures are no part of what is written down."""
    return SumList.of(
        [
            Promise.signed(
                ec.generate_private_key(ec.SECP384R1()), SUBJECT, update(site), SECRETS[site].public
            )
            for site in SITES
        ]
    )


def layout(sums: SumList) -> Layout:
    return Layout(MODEL, FINDINGS, ROWS, sums.terms(2))


def round_() -> dict[str, Any]:
    """Site B's part."""
    sums, site = promises(), SITES[1]
    vector = layout(sums).encode(update(site))
    add_masks(vector, SECRETS[site].masks(site, sums))
    return {
        "transcript": sums.transcript.hex(),
        "low": vector.low.tolist(),
        "high": vector.high.tolist(),
        "opening": SECRETS[site].own_key(sums).hex(),
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(round_(), indent=1) + "\n", encoding="utf-8")
