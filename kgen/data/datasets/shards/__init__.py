"""Shards: large files that each hold many images. They are found by a folder, a file name or a pattern."""
