"""Weights of models: downloaded, kept by content, and read into memory.

No file that can carry a program is opened as weights: see `formats`. Only `torch_tensors`,
`torch_lora` and `torch_compiled` import torch.
"""
