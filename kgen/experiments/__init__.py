"""The things that make up a run: its experiment (configuration, dataset, parts), directory and trainings."""
