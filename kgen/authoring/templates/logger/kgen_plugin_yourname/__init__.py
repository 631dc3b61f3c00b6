"""A logger for kgen: it writes lines of JSON."""
