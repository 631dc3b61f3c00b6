"""Plain Keras layers that plugins share: they know nothing of pipelines, and work on every backend."""

from kgen.nn.attention import MultiHeadAttention
from kgen.nn.dropout import Dropout
from kgen.nn.embeddings import grid_positions, sequence_positions, sinusoidal
from kgen.nn.normalization import GroupNorm
from kgen.nn.resampling import Upsample, depth_to_space, space_to_depth

__all__ = [
    "Dropout",
    "GroupNorm",
    "MultiHeadAttention",
    "Upsample",
    "depth_to_space",
    "grid_positions",
    "sequence_positions",
    "sinusoidal",
    "space_to_depth",
]
