"""The weights that the server sends, and those that go back: as differences to what both sides have."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from acm_core.arrays import Arrays
from acm_core.federated.encoding import BaseMismatchError, EncodingError, decode, encode, is_of
from acm_core.federated.messages import Refusal, TaskKind
from acm_core.federated.update import MAX_GROWTH, first_fault
from acm_core.nn import trained_names, unfilled_classifier
from acm_core.training.local import TrainingDivergedError
from acm_core.training.weights import blank_arrays
from client.round.refusal import RefusedError
from client.round.site_task import SiteTask


def received_weights(task: SiteTask) -> Arrays:
    """The weights sent: all, or what trains beside the rest that came before; as values, or as the difference to those
    that came last.

    The rest comes with round 1, or with the first task that the site gets, and stays as it is.

    Raises:
        RefusedError: they are not the model's, no difference to what came last, or none that training gives.
    """
    sent = task.asked.arrays
    try:
        before = task.kept.load_received()
    except OSError:
        before = None
    model = unfilled_classifier(task.config.model, len(task.config.findings))
    last = before or blank_arrays(model)
    trained = trained_names(model)
    part = {name: last[name] for name in trained}
    try:
        is_part = len(part) < len(last) and is_of(sent, part)
        received = {**last, **decode(sent, part)} if is_part else decode(sent, last)
    except BaseMismatchError as error:
        raise RefusedError(Refusal.BASE, str(error)) from error
    except EncodingError as error:
        raise RefusedError(Refusal.MODEL, str(error)) from error
    if is_part and before is None:
        raise RefusedError(Refusal.BASE, "expected the whole model first, got what trains of it")
    if before and not (task.asked.kind is TaskKind.TRAIN and task.asked.round == 1):
        _expect_same(received, before, sorted(last.keys() - trained))
    if fault := first_fault(received, last, MAX_GROWTH):
        raise RefusedError(Refusal.MODEL, fault[1])
    return received


def sent_weights(task: SiteTask, trained: Arrays, received: Arrays, names: Collection[str]) -> Arrays:
    """What goes back of the trained weights: those of these names, as the run encodes them.

    What is rounded away is kept, and added to the next.

    Raises:
        TrainingDivergedError: one of the weights is not finite.
    """
    if not all(np.isfinite(array).all() for array in trained.values()):
        raise TrainingDivergedError("expected finite weights after training")
    encoding, number = task.config.federation.encoding, task.asked.round
    residual = task.kept.load_residual(before=number) if encoding == "int8" else {}
    base = {name: received[name] for name in names}
    encoded = encode({name: trained[name] for name in names}, base, encoding, residual)
    if encoded.residual:
        task.kept.save_residual(number, encoded.residual)
    return encoded.payload


def _expect_same(received: Arrays, before: Arrays, frozen: Sequence[str]) -> None:
    for name in frozen:
        if received[name].tobytes() != before[name].tobytes():
            raise RefusedError(
                Refusal.MODEL,
                f"{name}: expected the values that came first, which model.trainable leaves as they are, got others: "
                "begin the run anew, under another name",
            )
