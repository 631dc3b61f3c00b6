"""What each part of a pipeline must do."""
