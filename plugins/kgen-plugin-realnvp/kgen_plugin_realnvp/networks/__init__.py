"""What couplings compute with.

A network is a Keras layer, called as ``network(x, condition)``, x (B, H, W, C), that returns (B, H, W, out_channels)
float32, which is 0 everywhere before training. It is built explicitly, by ``build(x_shape, condition_shape)``.
"""

from kgen_plugin_realnvp.networks.convolutional import ConvolutionalNetwork
from kgen_plugin_realnvp.networks.transformer import TransformerNetwork

__all__ = ["ConvolutionalNetwork", "TransformerNetwork"]
