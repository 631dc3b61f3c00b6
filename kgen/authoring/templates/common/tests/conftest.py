"""Selects an installed backend before the tests import Keras."""

from __future__ import annotations

import kgen

kgen.select_backend()
