"""Commands for a new installation: a first run file, and a report of what is wrong."""
