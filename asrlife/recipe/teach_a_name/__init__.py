"""Names that a recogniser gets wrong, taught from a few synthetic utterances by an edit of its weights."""
