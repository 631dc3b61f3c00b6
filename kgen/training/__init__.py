"""Keras's `fit`, made exact to resume, distributed, and watched."""
