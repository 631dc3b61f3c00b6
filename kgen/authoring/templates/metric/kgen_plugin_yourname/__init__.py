"""A metric for kgen: how colorful images are."""
