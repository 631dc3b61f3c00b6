"""A text encoder for kgen: a learned vector for each word, found by a hash of the word."""
