"""Reads shards, which are large files with many images each. A folder, a file name or a pattern names them."""
