"""Reading and writing files: atomically, with locks and checksums, and without replacing the user's files."""
