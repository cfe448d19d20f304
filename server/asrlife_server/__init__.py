"""The streaming recognition server that adapts while it serves. Reading order: main, service, stream, session, endpointing, engine."""
