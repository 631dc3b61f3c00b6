"""The hooks of plugins, the discovery of plugins, and the registry of their declarations."""
