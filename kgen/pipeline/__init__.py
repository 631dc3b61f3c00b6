"""Three parts as one model: assembled, trained on, sampled, saved."""
