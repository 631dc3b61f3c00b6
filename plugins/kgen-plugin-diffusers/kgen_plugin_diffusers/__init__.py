"""Models in the folders of the library diffusers, as components of kgen."""
