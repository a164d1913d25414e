"""What all tests share."""

from __future__ import annotations

import pytest

from acm_core.nn import resnet


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ResNet as deep as ever, of few numbers."""
    monkeypatch.setattr(resnet, "_STAGE_WIDTHS", (64, 64, 64, 64))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: the last to begin is then a short one, and no worker waits for another long."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
