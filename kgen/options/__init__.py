"""Options: a component's signature is its configuration."""

from __future__ import annotations

from kgen.options.arguments import Arguments
from kgen.options.choices import Choice
from kgen.options.configurable import Configurable
from kgen.options.kinds import OneOf, names_of, part
from kgen.options.signature import MAX_OPTION, option_model, options, supplied
from kgen.options.static import Static, is_static, split_options
from kgen.options.validation import check, check_options, model_of, plain, schema_of

__all__ = [
    "MAX_OPTION",
    "Arguments",
    "Choice",
    "Configurable",
    "OneOf",
    "Static",
    "check",
    "check_options",
    "is_static",
    "model_of",
    "names_of",
    "option_model",
    "options",
    "part",
    "plain",
    "schema_of",
    "split_options",
    "supplied",
]
