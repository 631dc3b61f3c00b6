"""How images are read: the processes that decode them, and the measurement of their speed."""
