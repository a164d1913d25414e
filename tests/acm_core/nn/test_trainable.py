"""A part of the classifier trains: the rest requires no gradient, stays in evaluation mode and keeps every bit."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acm_core.config.sections import ModelConfig, TrainingConfig
from acm_core.nn import (
    Classifier,
    build_classifier,
    normalised,
    trained_names,
    unfilled_classifier,
)
from acm_core.training.local import make_optimizer
from acm_core.training.loss import masked_bce, orthogonality_penalty, proximal_penalty

pytestmark = pytest.mark.usefixtures("narrow")

PARTS = ("all", "head", "norm", "last_stage")
HEAD = {"head.weight", "head.bias"}


def classifier(**changes: Any) -> Classifier:
    return build_classifier(ModelConfig.model_validate(changes), 2, seed=1)


def stepped(model: Classifier) -> set[str]:
    """Names of what three training steps change."""
    before = {name: values.clone() for name, values in model.state_dict().items()}
    optimizer = make_optimizer(model, TrainingConfig(learning_rate=0.1))
    reference = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    films, labels = normalised(torch.rand(4, 1, 64, 64)), torch.eye(2).repeat(2, 1)
    model.train()
    for _ in range(3):
        output = model(films)
        loss = masked_bce(output.logits, labels) + 0.1 * orthogonality_penalty(output.orthogonality)
        loss = loss + proximal_penalty(model.named_parameters(), reference, 0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])}


@pytest.mark.parametrize("trainable", PARTS)
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("context", ["acm", "none"])
def test_training_changes_what_is_named_and_nothing_else(trainable: str, norm: str, context: str) -> None:
    model = classifier(trainable=trainable, norm=norm, context=context)
    assert stepped(model) == trained_names(model)


def test_each_part_is_what_it_is_called() -> None:
    everything = set(classifier().state_dict())
    norms = {name for name in everything if re.search(r"(^|\.)(bn\d|downsample\.1)\.", name)}
    assert len(norms) == 20 * 5
    assert trained_names(classifier()) == everything
    assert trained_names(classifier(trainable="head")) == HEAD
    assert trained_names(classifier(trainable="norm")) == norms | HEAD
    stage = {name for name in everything if name.startswith("layer4.")}
    assert trained_names(classifier(trainable="last_stage")) == stage | HEAD


@pytest.mark.parametrize("trainable", PARTS)
def test_a_model_to_be_filled_trains_the_same_part(trainable: str) -> None:
    config = ModelConfig.model_validate({"trainable": trainable})
    model = unfilled_classifier(config, 2).to(memory_format=torch.channels_last)
    assert trained_names(model) == trained_names(build_classifier(config, 2))


@pytest.mark.parametrize("trainable", PARTS)
def test_frozen_modules_stay_in_evaluation_mode(trainable: str) -> None:
    model = classifier(trainable=trainable)
    for _ in range(2):
        for name, module in model.named_modules():
            parameters = list(module.parameters(recurse=False))
            if parameters:
                assert module.training == any(parameter.requires_grad for parameter in parameters), name
        assert model.training
        assert not any(module.training for module in model.eval().modules())
        model.train()


def test_a_frozen_batch_normalisation_is_the_affine_map_of_its_start() -> None:
    model = classifier(trainable="head").train()
    films = normalised(torch.rand(3, 1, 64, 64))
    together = model(films).logits
    alone = torch.cat([model(film[None]).logits for film in films])
    torch.testing.assert_close(together, alone)


def test_a_head_trains_without_a_graph_of_the_trunk() -> None:
    model = classifier(trainable="head").train()
    maps, penalty = model.features(normalised(torch.rand(2, 1, 64, 64)))
    assert maps.grad_fn is None
    assert penalty.grad_fn is None
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(normalised(torch.rand(2, 1, 64, 64)))
    assert max(kept) <= maps.numel()


def test_the_optimiser_has_what_trains_only() -> None:
    model = classifier(trainable="last_stage")
    held = {id(p) for group in make_optimizer(model, TrainingConfig()).param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(held) < len(list(model.parameters()))


def test_a_module_without_parameters_trains_with_what_is_around_it() -> None:
    model = classifier(trainable="last_stage")
    model.layer4[0].downsample.append(nn.Dropout())
    model.layer3[0].downsample.append(nn.Dropout())
    model.train()
    assert model.layer4[0].downsample[-1].training
    assert not model.layer3[0].downsample[-1].training
