"""Networks that compute features of images. `contract.py` says what they must do; each other file is one network."""
