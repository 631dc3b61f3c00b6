"""Reads a folder of images: finds the images and their captions, and divides them into splits."""

from kgen.data.datasets.folder.reader import Folder, read_folder
from kgen.data.datasets.folder.tables import CaptionsFrom

__all__ = ["CaptionsFrom", "Folder", "read_folder"]
