"""The three parts of a pipeline: made by their names, compared, described and saved."""
