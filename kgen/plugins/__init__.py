"""What plugins can do, how they are found, and what they declare."""
