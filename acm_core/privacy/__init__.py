"""Differential privacy at a site: the only importer of Opacus."""
