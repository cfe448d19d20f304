"""What a method did, with intervals: reliability, generality, locality and cost."""
