"""Models before they are served: where they come from, conversion, packaging, acceptance tests, the bundle."""
