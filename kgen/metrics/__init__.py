"""kgen's own metrics of generated images."""
