"""What the results of the stages read like: a result in, text out."""
