"""What all tests share."""

from __future__ import annotations

import pytest

from acm_core.nn import resnet


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ResNet as deep as ever, of few numbers."""
    monkeypatch.setattr(resnet, "_STAGE_WIDTHS", (64, 64, 64, 64))
