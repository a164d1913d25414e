"""A run's model in forms that others can use: safetensors, ONNX, torch.export, a MONAI bundle, with its model card."""
