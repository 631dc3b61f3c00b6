"""Sweeps: one table and one plot of many trials, each a training or an evaluation with other settings."""
