"""Runs: from the run file to the report."""
