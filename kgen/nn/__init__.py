"""Plain Keras layers that plugins share: they know nothing of pipelines, and work on every backend."""

from kgen.nn.attention import MultiHeadAttention, attention_weights
from kgen.nn.dropout import Dropout
from kgen.nn.embeddings import NoiseEmbedding, grid_positions, sequence_positions, sinusoidal
from kgen.nn.normalization import GroupNorm
from kgen.nn.resampling import Upsample, depth_to_space, space_to_depth
from kgen.nn.thresholding import threshold_dynamically
from kgen.nn.transformer import TransformerBlock
from kgen.nn.unet import UNetLayer

__all__ = [
    "Dropout",
    "GroupNorm",
    "MultiHeadAttention",
    "NoiseEmbedding",
    "TransformerBlock",
    "UNetLayer",
    "Upsample",
    "attention_weights",
    "depth_to_space",
    "grid_positions",
    "sequence_positions",
    "sinusoidal",
    "space_to_depth",
    "threshold_dynamically",
]
