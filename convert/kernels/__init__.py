"""What computes the blocks of a row. One module for each implementation."""

from convert.kernels.ggml import Ggml, load_ggml

__all__ = ["Ggml", "load_ggml"]
