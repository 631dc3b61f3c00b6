"""The networks of couplings.

A network is a Keras layer, called as ``network(x, condition)`` with x (B, H, W, C). It returns (B, H, W, out_channels)
float32, which is 0 everywhere before training. It must be built explicitly, by ``build(x_shape, condition_shape)``.
"""

from kgen_plugin_realnvp.networks.convolutional import ConvolutionalNetwork
from kgen_plugin_realnvp.networks.transformer import TransformerNetwork

__all__ = ["ConvolutionalNetwork", "TransformerNetwork"]
