"""The contracts: what an encoder, a generator, a decoder, a dataset and a metric must offer."""
