"""Imports a plugin's code so that it cannot end kgen, write to its output, or hang without a message."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

from kgen.errors import KgenError, PluginError

PATIENCE = 10.0
"""Seconds after which a message says what kgen is waiting for."""


@contextlib.contextmanager
def isolated(what: str, remedy: str = "") -> Iterator[None]:
    """Isolates an import of foreign code. Its output goes to stderr, and so does a message if the import takes long.

    Args:
        what: The imported object, for messages: "plugin 'mine' of kgen-plugin-mine 1.0".
        remedy: What the user can do if the import does not end.

    Raises:
        PluginError: the code raised an exception, including SystemExit. A `KgenError` and Ctrl-C pass unchanged.
    """

    def tell() -> None:
        print(f"{what} has been importing for {PATIENCE:g} s: still waiting{remedy}", file=sys.stderr, flush=True)

    timer = threading.Timer(PATIENCE, tell)
    timer.daemon = True
    timer.start()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (KgenError, KeyboardInterrupt):
        raise
    except SystemExit as error:
        raise PluginError(f"it calls sys.exit({error.code!r}) when it is imported") from error
    except SyntaxError as error:
        raise PluginError(f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})") from error
    except BaseException as error:
        raise PluginError(f"{type(error).__name__}: {error}") from error
    finally:
        timer.cancel()
