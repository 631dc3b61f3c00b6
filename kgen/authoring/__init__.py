"""Writes packages of new plugins and of trained models from templates."""

from kgen.authoring.model_package import pack_model
from kgen.authoring.package import kinds_with_templates, new_plugin

__all__ = ["kinds_with_templates", "new_plugin", "pack_model"]
