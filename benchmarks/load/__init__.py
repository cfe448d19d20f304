"""Streams at the pace of speech, and the servers that they load."""
