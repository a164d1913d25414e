"""Which models a federation file may train privately."""

from __future__ import annotations

import pytest
from hospitals import federation
from pydantic import ValidationError

PRIVACY = {"epsilon": 8.0, "delta": 1e-3, "expected_batch": 10}


@pytest.mark.parametrize("trainable", ["all", "head", "norm", "last_stage"])
def test_every_part_trains_privately_with_group_normalisation(trainable: str) -> None:
    assert federation(privacy=PRIVACY, model={"norm": "group", "trainable": trainable}).privacy is not None


def test_batch_normalisation_that_is_frozen_is_permitted() -> None:
    assert federation(privacy=PRIVACY, model={"norm": "batch", "trainable": "head"}).privacy is not None


@pytest.mark.parametrize("trainable", ["all", "norm", "last_stage"])
def test_batch_normalisation_that_trains_is_refused(trainable: str) -> None:
    with pytest.raises(ValidationError, match=r"expected model\.norm: group.*model\.trainable: head"):
        federation(privacy=PRIVACY, model={"norm": "batch", "trainable": trainable})
    assert federation(model={"norm": "batch", "trainable": trainable}).privacy is None
