"""Attend-and-compare as one operation. Import the modules: this loads nothing.

- `attend_and_compare`: the operation, which chooses what computes it: `cpu`, `gpu` or `derived`.
- `passes`: what each of these takes and gives; `reference`: what they are proved against.
"""
