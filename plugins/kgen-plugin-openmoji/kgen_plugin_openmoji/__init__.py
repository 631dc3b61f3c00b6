"""OpenMoji's captioned images for kgen."""
