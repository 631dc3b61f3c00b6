"""The formulas, on arrays of features or of images: they know neither networks nor datasets."""
