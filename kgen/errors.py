"""Errors that are not faults of kgen. Each message says what is wrong, where, and what to do.

The command line prints a `KgenError` as one message, without a traceback, and exits with the status `exit_code`.
"""

import errno

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers of a full disk, an exhausted quota, and a file that is larger than allowed."""


class KgenError(Exception):
    """Base class of all errors that a user can fix."""

    exit_code = 2
    _keras_call_info_injected = True  # otherwise Keras adds the arguments of a layer's call to the message


class ConfigError(KgenError):
    """A configuration, or an option given on the command line, is wrong."""


class DataError(KgenError):
    """A dataset is missing, empty or damaged."""


class PluginError(KgenError):
    """A plugin could not be loaded, or breaks the extension contract."""


class IncompatibleError(PluginError):
    """A plugin was written for a different contract than that of this kgen."""


class ComponentError(PluginError):
    """A component raised an exception that is not a `KgenError`: a fault of the distribution that provides it."""

    exit_code = 1


class SpaceError(KgenError):
    """Two neighboring parts of a pipeline do not fit together."""


class RunError(KgenError):
    """A run directory cannot be used, or a run cannot continue."""


class ImageRangeWarning(UserWarning):
    """Float images are expected in [-1, 1], but seem to be in [0, 1]."""


class GuidanceWarning(UserWarning):
    """Guidance is used with a pipeline that was trained without dropping conditions."""


class UnshownTextWarning(UserWarning):
    """Characters of a text that kgen's font does not have, so that a grid of images shows boxes in their place."""


class UnreadTextWarning(UserWarning):
    """The encoder does not read a prompt completely: it is too long, or contains unknown words."""


class BiasedMetricWarning(UserWarning):
    """A metric judges images by the model that their generator has as its encoder, which favors them."""


class XlaLimitWarning(UserWarning):
    """A process on TensorFlow has as many programs of XLA as it may have; further programs are not compiled by XLA."""


class HookWarning(UserWarning):
    """A plugin's hook failed; kgen continues without it."""


class RunInterruptedError(KgenError):
    """The user stopped a run (Ctrl-C), or the system did (SIGTERM); nothing is lost."""

    exit_code = 130
