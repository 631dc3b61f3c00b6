"""Reads a folder of images: which files they are, where their captions come from, and what each split holds."""

from kgen.data.datasets.folder.reader import Folder, read_folder
from kgen.data.datasets.folder.tables import CaptionsFrom

__all__ = ["CaptionsFrom", "Folder", "read_folder"]
