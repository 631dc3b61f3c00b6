"""Code that depends on the hardware and on the backend of Keras."""
