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


def test_an_epsilon_above_a_hundred_may_be_written_and_is_no_promise_about_membership() -> None:
    named = federation(privacy={**PRIVACY, "epsilon": 500}, model={"norm": "group"}).privacy
    assert named is not None
    assert named.caveat is not None
    assert named.caveat.startswith("ε = 500: this is no promise about membership")
    within = federation(privacy={**PRIVACY, "epsilon": 100}, model={"norm": "group"}).privacy
    assert within is not None
    assert within.caveat is None
    with pytest.raises(ValidationError, match="1000000"):
        federation(privacy={**PRIVACY, "epsilon": 1.1e6}, model={"norm": "group"})


def test_a_projected_head_needs_the_start_that_brings_its_axes() -> None:
    with pytest.raises(
        ValidationError, match=r"expected model\.weights with model\.head: projected, got none"
    ):
        federation(model={"head": "projected"})
    for start in ({"weights": "start.safetensors"}, {"weights_sha256": "a" * 64}):
        assert federation(model={"head": "projected", **start}).model.head == "projected"
