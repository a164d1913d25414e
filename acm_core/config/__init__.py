"""Typed settings of a federation and of a site, read from YAML. Importing this package needs no torch."""

from acm_core.config.loading import ConfigError, dump_config, load_config
from acm_core.config.section import Section
from acm_core.config.sections import (
    EvaluationConfig,
    FederationConfig,
    FederationSection,
    ModelConfig,
    PrivacyConfig,
    ServerSection,
    SiteName,
    TrainingConfig,
)
from acm_core.config.site import LabelMap, SiteConfig, SitePrivacy

__all__ = [
    "ConfigError",
    "EvaluationConfig",
    "FederationConfig",
    "FederationSection",
    "LabelMap",
    "ModelConfig",
    "PrivacyConfig",
    "Section",
    "ServerSection",
    "SiteConfig",
    "SiteName",
    "SitePrivacy",
    "TrainingConfig",
    "dump_config",
    "load_config",
]
