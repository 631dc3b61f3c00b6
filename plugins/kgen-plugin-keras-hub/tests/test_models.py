"""Models that Hugging Face's library saved, loaded through KerasHub: both compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import conftest
import numpy as np
import pytest
from keras import ops
