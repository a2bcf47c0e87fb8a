"""One file for each family of routes. A route translates between HTTP and the predictor; it decides nothing."""
