"""Processes that read and decode images, and the measurement of their speed."""
