"""Writes packages of new plugins from templates."""

from kgen.authoring.package import kinds_with_templates, new_plugin

__all__ = ["kinds_with_templates", "new_plugin"]
