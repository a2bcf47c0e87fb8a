"""The HTTP side: the app, its routes, middleware, schemas and errors in each family's shape."""
