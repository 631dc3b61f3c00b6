"""OpenMoji's captioned pictures for kgen."""
