"""What can go wrong through no fault of kgen: each error says what, where and what to do.

The command line prints any `KgenError` as one message, without a traceback, and exits with status 2.
"""

import errno

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""The errors of a disk that is full, a quota that is used up, and a file that is larger than allowed."""


class KgenError(Exception):
    """Base of every error that a user can mend."""

    exit_code = 2
    _keras_call_info_injected = True  # else Keras, in whose layers it may be raised, writes arguments into its message


class ConfigError(KgenError):
    """A configuration, or an option given on the command line, is wrong."""


class DataError(KgenError):
    """A dataset is missing, empty or damaged."""


class PluginError(KgenError):
    """A plugin could not be loaded, or breaks the extension contract."""


class IncompatibleError(PluginError):
    """A plugin was written for another contract than this kgen has."""


class ComponentError(PluginError):
    """A component raised an exception that is none of kgen's: a fault of the distribution that it comes from."""

    exit_code = 1


class SpaceError(KgenError):
    """Two neighboring parts of a pipeline do not fit together."""


class RunError(KgenError):
    """A run directory cannot be used, or a run could not go on."""


class ImageRangeWarning(UserWarning):
    """Float images that are in [-1, 1], but seem to have been scaled to [0, 1]."""


class GuidanceWarning(UserWarning):
    """Guidance by a pipeline that was trained without dropping conditions."""


class UnreadTextWarning(UserWarning):
    """A prompt of which the encoder does not read everything: it is too long, or has words that were not learned."""


class HookWarning(UserWarning):
    """A plugin failed where it was told of something; kgen goes on without it."""


class RunInterruptedError(KgenError):
    """The user stopped a run (Ctrl-C); nothing is lost."""

    exit_code = 130
