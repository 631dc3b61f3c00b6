"""Keras layers and functions that plugins share. They are independent of pipelines, and work on every backend."""

from kgen.nn.activations import geglu, gelu, gelu_tanh, swiglu
from kgen.nn.attention import MultiHeadAttention, attention_weights
from kgen.nn.ddim import cosine_schedule, ddim, end_clean, threshold_dynamically
from kgen.nn.dropout import Dropout
from kgen.nn.embeddings import NoiseEmbedding, grid_positions, sequence_positions, sinusoidal
from kgen.nn.fused import FusedDense
from kgen.nn.normalization import GroupNorm, group_count
from kgen.nn.remat import RematLayer
from kgen.nn.resampling import Upsample, depth_to_space, space_to_depth
from kgen.nn.residual import ResidualBlock, conv3x3
from kgen.nn.transformer import TransformerBlock
from kgen.nn.unet import UNetLayer, check_levels

__all__ = [
    "Dropout",
    "FusedDense",
    "GroupNorm",
    "MultiHeadAttention",
    "NoiseEmbedding",
    "RematLayer",
    "ResidualBlock",
    "TransformerBlock",
    "UNetLayer",
    "Upsample",
    "attention_weights",
    "check_levels",
    "conv3x3",
    "cosine_schedule",
    "ddim",
    "depth_to_space",
    "end_clean",
    "geglu",
    "gelu",
    "gelu_tanh",
    "group_count",
    "grid_positions",
    "sequence_positions",
    "sinusoidal",
    "space_to_depth",
    "swiglu",
    "threshold_dynamically",
]
