"""Files: written atomically, owned, and read with care."""
