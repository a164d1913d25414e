"""What tests of private training share: one thread, and a model of few numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from acm_core.nn import resnet


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Torch's threads do not survive a fork, and several hinder each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ResNet as deep as ever, of few numbers."""
    monkeypatch.setattr(resnet, "_STAGE_WIDTHS", (64, 64, 64, 64))
