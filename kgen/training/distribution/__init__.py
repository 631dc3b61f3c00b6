"""Training on several devices, and in several processes ("workers"): tf.distribute, and keras.distribution on JAX."""
