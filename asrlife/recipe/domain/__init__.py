"""A domain from its text: planned, read aloud, tuned, moved by a vector, judged, reported."""
