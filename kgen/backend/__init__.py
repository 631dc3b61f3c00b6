"""What depends on the hardware and on Keras's backend."""
