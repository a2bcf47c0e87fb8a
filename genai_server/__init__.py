"""The serving app. Ships alone: it imports none of our other packages and knows the model only through MLflow."""

__version__ = "1.0.0"
