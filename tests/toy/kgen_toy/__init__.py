"""A plugin as small as can be, that the tests put on the import path: `toy`."""
