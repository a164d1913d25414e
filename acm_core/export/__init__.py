"""A trained model in forms that others can use: torch.export, ONNX, a MONAI bundle."""

from acm_core.export.formats import ExportError
from acm_core.export.writing import write_forms

__all__ = ["ExportError", "write_forms"]
