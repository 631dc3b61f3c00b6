"""kgen's own datasets, with one module per source."""
