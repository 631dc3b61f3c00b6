"""Loops of a program, whose iterations PyTorch replays without Python code of layers."""
