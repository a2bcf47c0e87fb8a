"""The serving app. Ships alone: it imports none of our other packages and knows the model only through MLflow."""
