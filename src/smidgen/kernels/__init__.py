"""FP8 and ternary operations, defined by plain PyTorch references."""
