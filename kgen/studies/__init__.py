"""Studies: what a sweep varies and measures, and the trials and trainings that follow from it."""
