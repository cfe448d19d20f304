"""A page that shows a stream while it adapts, served by the server itself."""
