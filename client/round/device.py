"""Where a site computes."""

from __future__ import annotations

import torch

from acm_core.config.site import SiteConfig


def best_device() -> torch.device:
    """A GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_device(site: SiteConfig) -> torch.device:
    """The device that the site's file names, and its number of CPU threads from now on."""
    if site.threads is not None:
        torch.set_num_threads(site.threads)
    if site.device == "auto":
        return best_device()
    return torch.device(site.device)
