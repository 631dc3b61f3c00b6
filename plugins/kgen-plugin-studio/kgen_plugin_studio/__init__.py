"""A page in the browser for the runs of kgen: generate images, compare runs, watch trainings."""
