"""Invertible maps with known Jacobian determinants, one per file.

A bijection is a Keras layer: ``y, log_det = bijection(x, condition)``, and ``x = bijection.inverse(y, condition)``.
"""

from kgen_plugin_realnvp.bijections.actnorm import ActNorm
from kgen_plugin_realnvp.bijections.base import Bijection
from kgen_plugin_realnvp.bijections.chain import Chain
from kgen_plugin_realnvp.bijections.coupling import AffineCoupling
from kgen_plugin_realnvp.bijections.factor_out import FactorOut
from kgen_plugin_realnvp.bijections.logit import Logit
from kgen_plugin_realnvp.bijections.mixing import ChannelMixing
from kgen_plugin_realnvp.bijections.squeeze import Squeeze, Unsqueeze

__all__ = [
    "ActNorm",
    "AffineCoupling",
    "Bijection",
    "Chain",
    "ChannelMixing",
    "FactorOut",
    "Logit",
    "Squeeze",
    "Unsqueeze",
]
