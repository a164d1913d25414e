"""Training at one site, and how well a model does there. Import the modules: this loads nothing.

- `local`: epochs over a site's films, and scores of them; `loss`: what is made small.
- `self_supervised`, `features`, `adaptation`: what needs no labels.
- `weights`, `optimizer_state`: a model and an optimiser as named arrays and files.
- `metrics`, `subgroups`, `calibration`, `shortcuts`, `rounding`: figures of a model's scores; they know no framework.
"""
