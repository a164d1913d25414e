"""Context modules, ResNets and the classifier made of them."""

from acm_core.nn.attend_and_compare import AttendAndCompare, AttentionMaps
from acm_core.nn.cbam import ConvolutionalBlockAttention
from acm_core.nn.classifier import (
    Classifier,
    ClassifierOutput,
    MeanHead,
    build_classifier,
    finding_rows,
    normalised,
    trained_names,
    unfilled_classifier,
)
from acm_core.nn.context import ContextModule, NoContext
from acm_core.nn.context_choice import build_context
from acm_core.nn.deployed import DeployedClassifier
from acm_core.nn.projection import Projection, fit_projection
from acm_core.nn.self_attention import SelfAttention
from acm_core.nn.squeeze_excitation import SqueezeExcitation
from acm_core.nn.weight_file import Origin, WeightsError
from acm_core.nn.weights import LoadReport, load_weights

__all__ = [
    "AttendAndCompare",
    "AttentionMaps",
    "Classifier",
    "ClassifierOutput",
    "ContextModule",
    "ConvolutionalBlockAttention",
    "DeployedClassifier",
    "LoadReport",
    "MeanHead",
    "NoContext",
    "Origin",
    "Projection",
    "SelfAttention",
    "SqueezeExcitation",
    "WeightsError",
    "build_classifier",
    "build_context",
    "finding_rows",
    "fit_projection",
    "load_weights",
    "normalised",
    "trained_names",
    "unfilled_classifier",
]
