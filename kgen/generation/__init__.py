"""The images of `kgen generate`: what is asked for, the models that are kept loaded, and the files that are written."""
